//! `daemonlet`: the node agent and its node-local command line.
fn main() {}
