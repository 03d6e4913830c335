//! The stdin of a container that asks for one: it says nothing and never ends.
//!
//! Driven by `containers`. A FIFO to which nobody writes: the shim opens both ends until the container is deleted, so nothing of
//! ours holds it open, and neither the agent's end nor the log keeper's is the stream's.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::seams::{CreateRun, StepError};

/// As containerd wants it: empty where there is none. It lies in memory, so this does not block.
pub fn make(run: &CreateRun<'_>, path: PathBuf) -> Result<String, StepError> {
    if !run.container.stdin {
        return Ok(String::new());
    }
    let dir = path.parent().expect("it is in a directory");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir).and_then(|()| {
        match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Err(Errno::EEXIST) | Ok(()) => Ok(()),
            Err(why) => Err(why.into()),
        }
    });
    match made {
        Ok(()) => Ok(path.to_string_lossy().into_owned()),
        Err(why) => {
            let message = format!("the stdin of container {}: cannot make {}: {why}", run.run, path.display());
            Err(StepError::new("CreateContainerError", message))
        }
    }
}
