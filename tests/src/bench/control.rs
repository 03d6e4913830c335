//! What the way over the control endpoint costs: kubectl, the endpoint and the session to a real node, beside the same manifest put into the
//! directory; and what the endpoint costs while nothing happens.

use std::path::PathBuf;

use serde_json::json;

use super::memory::{processor_seconds, pss};
use super::table::{Samples, megabytes, row, value};
use super::{Bench, COMMAND_PATIENCE, IMAGE, Rounds, milliseconds, now, run_within, stamp_program};
use crate::fleet::{Kubectl, TestControl};
use crate::image::Image;
use crate::manifest::daemon_set;
use crate::node::TestNode;
use crate::wait::{pause, wait_for};

/// One endpoint and one node, on one machine.
pub fn control(rounds: Rounds) {
    let endpoint = TestControl::start();
    let image = Image::scratch(IMAGE, &stamp_program()).expect("the stamp program was built");
    let builder = TestNode::empty_builder().image("stamp.tar", &image);
    let node = endpoint.node_with(builder, "node-a", &endpoint.token());
    let mut bench = Bench { podman: None, node, ctr: PathBuf::from("ctr"), rounds, count: 0 };
    std::fs::create_dir_all(bench.stamp_dir()).expect("a directory can be made in an own directory");
    endpoint.wait_node_ready("node-a");
    wait_for("the image is known to containerd", || {
        let names = bench.node.ctr_lines(&["images", "ls", "-q"]);
        if names.contains(IMAGE) { Ok(()) } else { Err(format!("{names:?}")) }
    });
    bench.applied(&endpoint);
    let process = endpoint.process();
    value("endpoint's memory idle (PSS), one node", &megabytes(pss(process)), "25 MB");
    let before = processor_seconds(process);
    pause(std::time::Duration::from_secs(rounds.idle_seconds));
    let used = (processor_seconds(process) - before) * 60.0 / rounds.idle_seconds as f64;
    value("endpoint's processor time, idle minute, one node", &format!("{used:.2} s"), "");
    drop(bench);
}

impl Bench {
    /// In place of `ctr`'s column stands the same pod as a file in the manifest directory.
    fn applied(&mut self, endpoint: &TestControl) {
        let kubectl = |words: &[&str]| {
            run_within(
                COMMAND_PATIENCE,
                endpoint.kubectl_command(Kubectl::Debian, words).stdout(std::process::Stdio::piped()),
            );
            now()
        };
        let (mut answered, mut updated) = (Samples::default(), Samples::default());
        for round in 0..=self.rounds.single {
            let name = self.name("ds");
            let document = self.filled(daemon_set(&name), &name);
            let file = endpoint.file(&format!("{name}.json"), &document.text());
            let at = kubectl(&["apply", "-f", &file]);
            let first = milliseconds(at, self.stamp("start", &name));
            let change = json!({"spec": {"template": {"metadata": {"annotations": {"changed": "yes"}}}}}).to_string();
            let at = kubectl(&["patch", "daemonset", &name, "-p", &change]);
            let second = milliseconds(at, self.nth_stamp("start", &name, 1, COMMAND_PATIENCE));
            kubectl(&["delete", "daemonset", &name]);
            self.node.wait_no_pod(&name);

            let name = self.name("pod");
            let at = self.put(&name, &self.document(&name));
            let direct = milliseconds(at, self.stamp("start", &name));
            self.take_away(&name);
            // The first round pays for what the others find cached.
            if round > 0 {
                answered.ours.push(first);
                answered.ctr.push(direct);
                updated.ours.push(second);
                updated.ctr.push(direct);
            }
        }
        row("kubectl apply answered to first instruction (beside: a file renamed)", &answered, "+100 ms");
        row("template changed to the new pod's first instruction (beside: a file renamed)", &updated, "");
    }
}
