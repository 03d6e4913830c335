//! The agent's composition root: starts everything and waits for its end.

use std::path::PathBuf;

use crate::config::{Config, Settings};

/// What `main` hands over.
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    /// The flags as given: they win over the configuration file whenever it is read again.
    pub flags: Settings,
    /// The configuration file, followed while the agent runs.
    pub config_file: Option<PathBuf>,
}

/// Runs the agent until it is told to stop. On a current-thread runtime.
pub async fn run(start: Start) -> anyhow::Result<()> {
    anyhow::bail!("node {:?}: this build has no workers", start.config.node_name)
}
