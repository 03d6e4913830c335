//! Names of new pods, and in which portions they are made.

use std::collections::BTreeSet;
use std::ops::Range;

use pod::digest::letters;
use sha2::{Digest as _, Sha256};

use super::seen::{DaemonSet, Seen};

/// Letters after the DaemonSet's name, as Kubernetes' generated names have them.
const LETTERS: usize = 5;
/// A generated name has at most 63 characters, so that it is a host name; what is before the letters is cut (Kubernetes).
const BASE_MAX: usize = 58;

/// Gives names to the pods of one decision: new for every new pod, and the same for whoever decides from the same reading.
pub struct PodNames<'a> {
    base: String,
    seed: String,
    taken: BTreeSet<&'a str>,
    made: BTreeSet<String>,
}

impl<'a> PodNames<'a> {
    pub fn new(daemonset: &DaemonSet, seen: &'a Seen) -> PodNames<'a> {
        let mut base = format!("{}-", daemonset.name);
        base.truncate(BASE_MAX);
        PodNames {
            base,
            seed: format!("{}/{}", daemonset.uid, seen.version),
            taken: seen.pods.iter().map(|pod| pod.name.as_str()).collect(),
            made: BTreeSet::new(),
        }
    }

    pub fn next(&mut self, node: &str) -> String {
        let name = |nth: u64| {
            let sum = Sha256::digest(format!("{}/{node}/{nth}", self.seed));
            format!("{}{}", self.base, letters(&sum, LETTERS))
        };
        let free = |name: &String| !self.taken.contains(name.as_str()) && !self.made.contains(name);
        // Fourteen million names for at most thousands of pods: the first is free but for one time in thousands.
        let name = (0..).map(name).find(free).expect("there are more numbers than pods");
        self.made.insert(name.clone());
        name
    }
}

/// Creations in portions of 1, 2, 4 …: whoever carries them out stops when portions come to nothing, so that a thousand requests
/// are not refused for one reason.
pub fn slow_start(total: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0_usize;
    let mut size = 1_usize;
    std::iter::from_fn(move || {
        let portion = next..next.saturating_add(size).min(total);
        next = portion.end;
        size = size.saturating_mul(2);
        (!portion.is_empty()).then_some(portion)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_double_and_cover_everything_once() {
        assert_eq!(slow_start(10).collect::<Vec<_>>(), [0..1, 1..3, 3..7, 7..10]);
        assert_eq!(slow_start(0).count(), 0);
        assert_eq!(slow_start(1).count(), 1);
    }
}
