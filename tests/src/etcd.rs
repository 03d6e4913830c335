//! Debian's etcd as a test's own: one member on a free port of the loopback, over TLS with client certificates.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::authority::{Authority, Identity};
use crate::wait::wait_within;

/// A running etcd; dropped, it is ended by its process id and its data are deleted.
pub struct TestEtcd {
    process: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    peer: u16,
    authority: Authority,
}

/// Where scripts/setup.sh unpacks it, or where Debian's package puts it.
fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/etcd-server/usr/bin/etcd");
    if unpacked.exists() { unpacked } else { PathBuf::from("etcd") }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

impl TestEtcd {
    pub fn start() -> TestEtcd {
        let dir = tempfile::Builder::new().prefix("daemonlet-etcd-").tempdir().expect("a temporary directory");
        let authority = Authority::new();
        let server = authority.server(&["127.0.0.1"]);
        for (file, content) in [("ca.pem", &authority.pem()), ("server.pem", &server.cert), ("server.key", &server.key)]
        {
            fs::write(dir.path().join(file), content).expect("writing to a temporary directory");
        }
        let mut etcd = TestEtcd { process: None, dir, port: free_port(), peer: free_port(), authority };
        etcd.up();
        etcd
    }

    /// Starts it, again after [`TestEtcd::down`], and waits until it listens.
    pub fn up(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let (url, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let log = File::options().create(true).append(true).open(file("log")).expect("in a temporary directory");
        let child = Command::new(program())
            .args(["--name", "test", "--data-dir", &file("data"), "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}"), "--enable-grpc-gateway=false"])
            .args(["--cert-file", &file("server.pem"), "--key-file", &file("server.key")])
            .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.pem")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("etcd: {error}; scripts/setup.sh test fetches it"));
        self.process = Some(child);
        wait_within(Duration::from_secs(30), "etcd listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).map(drop).map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    /// As in a power cut: it has no time to say anything.
    pub fn down(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn authority(&self) -> String {
        self.authority.pem()
    }

    /// A certificate that it lets in.
    pub fn client(&self) -> Identity {
        self.authority.client("control")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        self.down();
    }
}
