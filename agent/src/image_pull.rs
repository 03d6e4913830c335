//! A pull as it is shown: what is fetched, how far it is, when it is tried again. Plain data and its words.
//!
//! Made by the runtime's pulls, published on the board, read by the doors (`get images`, `why`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A pull under way, or one that waits for its next try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImagePull {
    /// Canonical: `docker.io/library/busybox:latest`.
    pub name: String,
    /// As the manifests that wait for it write it.
    #[serde(rename = "wantedAs")]
    pub wanted_as: Vec<String>,
    #[serde(flatten)]
    pub stage: Stage,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum Stage {
    /// The registry is asked what the name means.
    Asking,
    Fetching(Progress),
    /// The last try failed.
    Waiting {
        /// Why, in words.
        reason: String,
        /// When it is tried again; None: when somebody asks for it.
        until: Option<jiff::Timestamp>,
    },
}

/// Bytes and layers of one pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes of configuration and layers that are here, those that were here before included.
    pub bytes: u64,
    pub total_bytes: u64,
    /// Layers that are unpacked.
    pub layers: usize,
    pub total_layers: usize,
    /// Lately, over the network.
    pub bytes_per_second: u64,
}

impl Progress {
    /// Whole percent of the bytes; 100 only when all are here.
    pub fn percent(&self) -> u64 {
        match self.total_bytes {
            0 => 0,
            total => self.bytes.min(total).saturating_mul(100) / total,
        }
    }

    /// At the present rate; None while nothing arrives.
    pub fn left(&self) -> Option<Duration> {
        let missing = self.total_bytes.saturating_sub(self.bytes);
        missing.checked_div(self.bytes_per_second).map(Duration::from_secs)
    }
}

impl ImagePull {
    /// `45% (135.0 MiB of 300.0 MiB), layer 4 of 10, 5.1 MiB/s, 32s left`, or why it waits.
    pub fn sentence(&self) -> String {
        match &self.stage {
            Stage::Asking => "asks the registry".to_owned(),
            Stage::Waiting { reason, .. } => reason.clone(),
            Stage::Fetching(progress) => {
                let Progress { bytes: done, total_bytes, layers, total_layers, bytes_per_second } = *progress;
                let layer = layers.saturating_add(1).min(total_layers);
                let mut words = format!("{}% ({} of {})", progress.percent(), bytes(done), bytes(total_bytes));
                if total_layers > 0 {
                    words.push_str(&format!(", layer {layer} of {total_layers}"));
                }
                match progress.left() {
                    Some(_) if done >= total_bytes => words.push_str(", unpacking"),
                    Some(left) => words.push_str(&format!(", {}/s, {}s left", bytes(bytes_per_second), left.as_secs())),
                    None if done >= total_bytes => words.push_str(", unpacking"),
                    None => {}
                }
                words
            }
        }
    }
}

/// Bytes in the largest unit that leaves a number of at least one.
pub fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(progress: Progress) -> ImagePull {
        ImagePull { name: "a.b/c:1".into(), wanted_as: Vec::new(), stage: Stage::Fetching(progress) }
    }

    #[test]
    fn progress_is_said_with_bytes_layer_rate_and_time_left() {
        let mut progress = Progress {
            bytes: 135 << 20,
            total_bytes: 300 << 20,
            layers: 3,
            total_layers: 10,
            bytes_per_second: 5 << 20,
        };
        let said = pull(progress).sentence();
        assert_eq!(said, "45% (135.0 MiB of 300.0 MiB), layer 4 of 10, 5.0 MiB/s, 33s left");
        progress.bytes_per_second = 0;
        assert!(pull(progress).sentence().ends_with("layer 4 of 10"), "a stalled pull promises no time");
        progress.bytes = progress.total_bytes;
        assert!(pull(progress).sentence().ends_with("unpacking"));
    }
}
