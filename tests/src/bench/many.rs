//! Many pods at once and what they cost while they run, and a large archive in the image directory.

use std::process::{Child, Command};
use std::time::Duration;

use super::memory::{anonymous, forget_peak, peak, processor_seconds, pss, resident};
use super::table::{Samples, megabytes, row, value, values};
use super::{Bench, CROWD_PATIENCE, IMAGE, milliseconds, now};
use crate::image::{self, Image, Tarball};
use crate::manifest::Document;
use crate::wait::{pause, wait_within};

/// Size of the layer in the import measurement.
const BIG_BYTES: usize = 1 << 30;

/// Starts all commands at once and waits for their ends.
pub fn at_once(commands: impl Iterator<Item = Command>) {
    let children: Vec<Child> =
        commands.map(|mut command| command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))).collect();
    for child in children {
        let ended = child.wait_with_output().expect("an own child can be waited for");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

impl Bench {
    /// 30 and 110 at once, and what they cost while they run.
    pub fn many(&mut self) {
        for (count, memory_target) in [(30u64, "12 MB"), (110, "16 MB")] {
            let names = self.names("pod", count);
            let texts: Vec<Document> = names.iter().map(|name| self.document(name)).collect();
            let mut times = Samples::default();
            let mut containerd = Samples::default();
            let at = now();
            for (name, document) in names.iter().zip(&texts) {
                self.put(name, document);
            }
            times.ours.push(milliseconds(at, self.last_start(&names)));
            self.resident(count, memory_target);
            if count == 30 {
                self.idle();
            }
            containerd.ours.push(self.containerd_pss());
            self.take_all_away(&names);

            let names = self.names("ctr", count);
            let at = now();
            at_once(names.iter().map(|name| self.ctr_run(name, IMAGE, &[])));
            times.ctr.push(milliseconds(at, self.last_start(&names)));
            containerd.ctr.push(self.containerd_pss());
            for name in &names {
                self.ctr_remove(name);
            }

            if self.podman.is_some() {
                let names = self.names("podman", count);
                let at = now();
                let options = ["--pull", "never", "--network", "host"];
                at_once(names.iter().map(|name| self.podman_run(name, IMAGE, &options)));
                times.podman.push(milliseconds(at, self.last_start(&names)));
                self.podman().ok(&["rm", "-f", "-a", "-t", "0"]);
            }
            row(&format!("{count} at once, last first instruction"), &times, "0.95");
            values(&format!("  containerd's memory (PSS) with {count}"), &containerd, megabytes, "");
        }
    }

    fn resident(&self, count: u64, target: &str) {
        // How much of the program's file counts depends on how the kernel has read it; the rest is what the agent has allocated.
        let (all, own) = (pss(self.node.agent_process()), anonymous(self.node.agent_process()));
        value(&format!("agent's memory (PSS), {count} pods (allocated: {own:.1} MB)"), &megabytes(all), target);
        let keeper = self.node.keeper().map_or(0.0, pss);
        value(
            &format!("our helpers' memory a pod (PSS), {count} pods"),
            &format!("{:.2} MB", keeper / count as f64),
            "0.3 MB",
        );
    }

    fn containerd_pss(&self) -> f64 {
        let config = self.node.dir().join("containerd/config.toml").display().to_string();
        crate::process::with_command(&config).first().map_or(0.0, |process| pss(*process))
    }

    fn idle(&self) {
        let agent = self.node.agent_process();
        let before = processor_seconds(agent);
        pause(Duration::from_secs(self.rounds.idle_seconds));
        let used = (processor_seconds(agent) - before) * 60.0 / self.rounds.idle_seconds as f64;
        value("agent's processor time, idle minute, 30 pods", &format!("{used:.2} s"), "0.05 s");
    }

    pub fn import(&mut self) {
        let name = "docker.io/library/big:1";
        // Numbers that do not repeat at short distances, so that nothing is saved by being the same.
        let content: Vec<u8> =
            (0..BIG_BYTES as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let layer = Tarball::new().file("big", 0o644, &content).bytes();
        drop(content);
        let archive = image::oci_archive(&[Image::empty(name).layer(layer)]);
        let agent = self.node.agent_process();
        forget_peak(agent);
        let idle = resident(agent);
        let at = now();
        self.node.place_image("big.tar", &archive);
        drop(archive);
        wait_within(CROWD_PATIENCE, "the big image is known", || {
            let names = self.node.ctr_lines(&["images", "ls", "-q"]);
            if names.contains(name) { Ok(()) } else { Err(self.node.tail("agent.log")) }
        });
        let took = milliseconds(at, now()) / 1e3;
        let added = peak(agent) - idle;
        value(&format!("import of 1 GB ({took:.1} s) adds at its peak"), &megabytes(added), "16 MB");
    }
}
