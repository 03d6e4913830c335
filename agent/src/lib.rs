//! The agent: the program `daemonlet`.
