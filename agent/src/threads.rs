//! Who may hold how many of the threads for what blocks: file systems that do not answer hold theirs for ever.
//!
//! Read by the program's entry, which makes them, and by those who look. Each has a stack and a heap of its own, so there are as
//! few as keep a burst of pods moving while every share hangs; one that is not needed ends by itself.

/// Calls of the disk (records, volumes): the others are needed to start containers.
pub const DISK: usize = 5;
/// hostPaths, which may be a network's.
pub const HOST_PATHS: usize = 3;
/// Last lines of the log of what failed.
pub const TAILS: usize = 2;
/// Working directories of commands in containers.
pub const WORKING_DIRECTORIES: usize = 2;
/// The file systems of images.
pub const IMAGE_DISKS: usize = 1;
/// For what has no share: mounts, calls of the log keeper, measuring.
const OTHERS: usize = 3;

/// All of them.
pub const BLOCKING_MAX: usize = DISK + HOST_PATHS + TAILS + WORKING_DIRECTORIES + IMAGE_DISKS + OTHERS;
