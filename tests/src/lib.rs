//! Tools of the black-box tests: images made on the spot, a node in a network namespace of its own, a client of the agent,
//! and the search for whatever a node left behind. They know the project by its contract only (flags, paths, output),
//! never by its crates, so that a wrong idea inside the agent cannot repeat itself in its tests; `simulated` alone knows the protocol's definition.

pub mod audit;
pub mod authority;
pub mod bench;
pub mod client;
pub mod etcd;
pub mod faulty;
pub mod fleet;
pub mod grpc_health;
pub mod image;
pub mod manifest;
pub mod node;
pub mod process;
pub mod registry;
pub mod scripted_registry;
pub mod simulated;
pub mod skip;
pub mod stand_in;
pub mod wait;
