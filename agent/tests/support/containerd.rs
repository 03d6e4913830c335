//! A containerd of the test's own: root, state and socket in a temporary directory, gone afterwards.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running containerd; dropped, it is ended by its process id and its mounts are undone.
pub struct Containerd {
    process: Child,
    dir: tempfile::TempDir,
}

impl Containerd {
    /// Starts one and waits until it answers. None, with a word on why, where containerd is not installed.
    pub fn start() -> Option<Containerd> {
        Containerd::start_in(|_| {})
    }

    /// With its root on a file system of this many MiB.
    pub fn start_small(mib: u32) -> Option<Containerd> {
        Containerd::start_in(|dir| {
            let root = dir.join("root");
            std::fs::create_dir(&root).expect("the test cannot go on without");
            mount_tmpfs(&root, &format!("size={mib}m"));
        })
    }

    /// Another size for the file system of [`Containerd::start_small`].
    pub fn resize(&self, mib: u32) {
        mount_tmpfs(&self.dir().join("root"), &format!("remount,size={mib}m"));
    }

    fn start_in(prepare: impl FnOnce(&Path)) -> Option<Containerd> {
        if Command::new("containerd").arg("--version").output().is_err() {
            tests::skip::skipped("containerd is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("daemonlet-ctd-").tempdir().expect("the test cannot go on without");
        prepare(dir.path());
        let process = spawn(dir.path());
        let containerd = Containerd { process, dir };
        containerd.wait();
        Some(containerd)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills it with SIGKILL.
    pub fn stop(&mut self) {
        self.process.kill().expect("the test cannot go on without");
        self.process.wait().expect("the test cannot go on without");
    }

    /// Kills it with SIGKILL and starts it anew on the same state.
    pub fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.dir.path());
        self.wait();
    }

    /// `ctr` against it in this namespace; its output, and a panic when it fails.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> String {
        let (ok, text) = self.try_ctr(namespace, args);
        assert!(ok, "ctr {args:?}: {text}");
        text
    }

    pub fn try_ctr(&self, namespace: &str, args: &[&str]) -> (bool, String) {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.socket()).args(["-n", namespace]).args(args);
        let output = command.stdin(Stdio::null()).output().expect("the test cannot go on without");
        let text = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned()).concat();
        (output.status.success(), text)
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.try_ctr("default", &["version"]).0 {
            assert!(Instant::now() < end, "containerd did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM first: it stops its shims' connections and closes its database.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside =
            mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| Path::new(m).starts_with(self.dir.path()));
        for mount in inside.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

fn mount_tmpfs(root: &Path, options: &str) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(root).status();
    assert!(status.is_ok_and(|status| status.success()), "mount -o {options} {}", root.display());
}

fn spawn(dir: &Path) -> Child {
    let shown = dir.display();
    let config = format!(
        "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\n  address = \"{shown}/c.sock\"\n[ttrpc]\n  address = \"{shown}/t.sock\"\n\
         [plugins.\"io.containerd.gc.v1.scheduler\"]\n  mutation_threshold = 1\n  schedule_delay = \"0ms\"\n  startup_delay = \"1ms\"\n"
    );
    std::fs::write(dir.join("config.toml"), config).expect("the test cannot go on without");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("the test cannot go on without");
    Command::new("containerd")
        .arg("-c")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the test cannot go on without"))
        .stderr(log)
        .spawn()
        .expect("the test cannot go on without")
}
