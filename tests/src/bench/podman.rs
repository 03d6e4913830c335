//! podman beside us: Debian's, unpacked and not installed (scripts/podman.sh), in a mount namespace where everything that it keeps outside
//! of its storage lies in memory. Nothing of it reaches the machine, and its storage lies on the same disk as containerd's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::run_within;
use crate::client;
use crate::node::TestNode;

/// podman asks for limits above the hard ones of a machine whose root lacks CAP_SYS_RESOURCE; these any machine has.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// The longest single word but for a pull is a removal of a hundred containers.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its own files over the machine's, what it writes in memory. `$1` is where it was unpacked, `/` where it is installed.
const ENTER: &str = r#"set -e
for place in /run /var/lib /var/cache /dev/shm; do mount -t tmpfs tmpfs "$place"; done
mkdir /run/upper /run/work
over=
if [ "$1" != / ]; then
    over=$1/etc:
    mount -t overlay overlay -o "ro,lowerdir=$1/usr:/usr" /usr
fi
mount -t overlay overlay -o "lowerdir=$over/etc,upperdir=/run/upper,workdir=/run/work" /etc
"#;

pub struct Podman {
    dir: PathBuf,
    network: String,
    cgroup_parent: String,
}

impl Podman {
    /// Where scripts/bench.sh says that it lies; none without that.
    pub fn beside(node: &TestNode) -> Option<Podman> {
        let root = std::env::var_os("DAEMONLET_BENCH_PODMAN").filter(|root| !root.is_empty())?;
        let dir = node.dir().join("podman");
        let namespaces = dir.join("ns");
        for made in [&namespaces, &dir.join("tmp")] {
            std::fs::create_dir_all(made).expect("a directory can be made in an own directory");
        }
        // A mount namespace can be pinned only below a mount that is not shared.
        let none: Option<&Path> = None;
        mount(Some(&namespaces), &namespaces, none, MsFlags::MS_BIND, none).expect("root may mount");
        mount(none, &namespaces, none, MsFlags::MS_PRIVATE, none).expect("root may mount");
        let pin = namespaces.join("mnt");
        std::fs::write(&pin, "").expect("a file can be written in an own directory");
        let mut unshare = Command::new("unshare");
        unshare.arg(format!("--mount={}", pin.display())).args([
            "--propagation",
            "private",
            "sh",
            "-c",
            ENTER,
            "enter",
        ]);
        let entered = client::run(unshare.arg(root));
        if entered.code != 0 {
            println!("podman's mount namespace cannot be made, so its column stays empty: {}", entered.err.trim());
            return None;
        }
        let network = format!("/run/netns/{}", node.id());
        Some(Podman { dir, network, cgroup_parent: format!("/{}/beside", node.cgroup_root) })
    }

    /// `podman WORDS…` on the node's network.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network)).arg(format!("--mount={}", self.dir.join("ns/mnt").display()));
        command.args(["--", "podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--root"]);
        command.arg(self.dir.join("storage")).args(words);
        command.env("TMPDIR", self.dir.join("tmp"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// `podman run -d` of this image and program, with the words that come before the image. The program takes the place of the
    /// image's entrypoint, as in `ctr run`; what follows an image is only added to it.
    pub fn run(&self, name: &str, options: &[String], image: &str, program: &[&str]) -> Command {
        let mut command = self.command(&["run", "-d", "--name", name, "--cgroup-parent", &self.cgroup_parent]);
        command.args(LIMITS).args(options);
        command.arg("--entrypoint").arg(serde_json::json!(program).to_string()).arg(image);
        command
    }

    /// Runs a word to its end; what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let mut command = self.command(words);
        run_within(PATIENCE, command.stdout(Stdio::piped()))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Only what a panic has left; and then the node's own end kills the processes.
        let _ = self.command(&["rm", "-f", "-a", "-t", "0"]).status();
        for place in ["ns/mnt", "ns"] {
            let _ = umount2(&self.dir.join(place), MntFlags::MNT_DETACH);
        }
    }
}
