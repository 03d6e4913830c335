//! Which images pods need: of every wanted pod and of every pod on record, as the manifests write them. Pure over what is
//! published.

use std::collections::BTreeSet;

use pod::desired::{DesiredSet, Wanted};

use crate::board::Board;

/// Images of all pods that are wanted or admitted.
pub fn wanted_images(desired: &DesiredSet, board: &Board) -> BTreeSet<String> {
    let mut images = BTreeSet::new();
    for wanted in desired.workloads.values() {
        if let Wanted::Run(pod) = wanted {
            images.extend(pod.template.spec.images().map(str::to_owned));
        }
    }
    for published in board.workloads().values() {
        for pod in &published.pods {
            images.extend(pod.template.spec.images().map(str::to_owned));
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn a_pod_on_record_needs_its_image_also_while_it_waits_and_nobody_wants_it() {
        let (board, _commands) = Board::new();
        let (key, published) = sample::backing_off();
        let image = published.pods[0].template.spec.containers[0].image.clone();
        board.publish(&key, Some(published));
        assert!(wanted_images(&DesiredSet::default(), &board).contains(&image));
        board.publish(&key, None);
        assert!(wanted_images(&DesiredSet::default(), &board).is_empty());
    }
}
