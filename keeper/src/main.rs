//! `daemonlet-logkeeper`.
fn main() {}
