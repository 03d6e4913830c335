//! Mirrors that fail in the middle of a pull.

use super::*;

/// A mirror with the same content before the node's registry, and an agent that knows it.
fn mirrored(node: &Node, layouts: &[(&str, &Layout)]) -> (ScriptedRegistry, Images) {
    let mirror = ScriptedRegistry::start();
    for (repository, layout) in layouts {
        mirror.push(repository, "1", layout);
    }
    let hosts_dir = node.containerd.dir().join("certs.d");
    let own = hosts_dir.join(node.registry.host());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("[host.\"http://{}\"]\n", mirror.host())).unwrap();
    let mut settings = settings();
    settings.registry.hosts_dir = Some(hosts_dir);
    (mirror, images(&node.containerd, settings))
}

#[tokio::test]
async fn a_mirror_that_cuts_stalls_lies_or_sends_nothing_is_passed_over_for_the_registry() {
    let Some(node) = Node::start() else { return };
    let cuts = |n: u64| Act::CutAt((n + 1) << 20);
    let ways: [(&str, Vec<Act>); 4] = [
        ("cuts", (0..5).map(cuts).collect()),
        ("nothing", vec![Act::CutAt(0); 9]),
        ("stalls", vec![Act::StallAt(1 << 20); 9]),
        ("lies", vec![Act::WrongAt(1000); 9]),
    ];
    for (seed, (way, acts)) in (30..).zip(ways) {
        let (layout, layers) = two_layers(seed);
        let (digest, size) = &layers[1];
        let image = node.registry.push(way, "1", &layout);
        let (mirror, images) = mirrored(&node, &[(way, &layout)]);
        for act in acts {
            mirror.fault(digest, 1, act);
        }
        let prepared = prepare(&images, &image, PullPolicy::IfNotPresent).await;
        assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{way}: {prepared:?}");
        let asked = mirror.asked(&format!("GET /v2/{way}/blobs/{digest}"));
        assert_eq!(asked, if way == "cuts" { 3 } else { 1 }, "{way}");
        let from_mirror = match way {
            "cuts" => 3 << 20,
            "stalls" => 1 << 20,
            _ => 0,
        };
        assert_eq!(node.registry.served(digest), size - from_mirror, "{way}: what came is not fetched again");
        mirror.go_on();
    }
}

#[tokio::test]
async fn a_mirror_that_lies_of_a_configuration_is_passed_over_too() {
    let Some(node) = Node::start() else { return };
    let (layout, _) = two_layers(34);
    let manifest: serde_json::Value =
        serde_json::from_slice(&layout.blobs[layout.manifests[0]["digest"].as_str().unwrap()]).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let image = node.registry.push("a", "1", &layout);
    let (mirror, images) = mirrored(&node, &[("a", &layout)]);
    mirror.fault(config, 9, Act::WrongAt(10));
    let prepared = prepare(&images, &image, PullPolicy::IfNotPresent).await;
    assert!(matches!(prepared, Ok(Prepared::Pulled { .. })), "{prepared:?}");
    assert_eq!((mirror.asked(config), node.registry.asked(config)), (1, 1));
}
