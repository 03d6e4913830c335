//! The program as it is started: its words, their exit codes, and what it leaves in its data directory.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::etcd::TestEtcd;
use tests::wait::wait_for;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daemonlet-control"));
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// On ports that nobody else has.
fn serve(data: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--nodes-listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .args(more);
    command
}

fn word(data: &Path, words: &[&str]) -> Output {
    program().args(words).arg("--data-dir").arg(data).output().expect("this machine can")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("this machine can")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running endpoint, killed when it goes away.
struct Endpoint {
    child: Child,
}

impl Endpoint {
    fn start(data: &Path, more: &[&str]) -> Endpoint {
        let child = serve(data, more).stderr(Stdio::piped()).spawn().expect("this machine can");
        let mut endpoint = Endpoint { child };
        // It answers on its socket once everything is there.
        wait_for("the endpoint's socket", || {
            let ended = endpoint.child.try_wait().expect("this machine can");
            assert!(ended.is_none(), "it does not start: {ended:?}");
            UnixStream::connect(data.join("daemonlet-control.sock")).map(drop).map_err(|error| error.to_string())
        });
        endpoint
    }

    /// Told to stop; what it printed.
    fn stop(mut self) -> String {
        kill(Pid::from_raw(self.child.id().try_into().expect("this machine can")), Signal::SIGTERM)
            .expect("this machine can");
        let status = wait_for("the endpoint's end", || {
            self.child.try_wait().expect("this machine can").ok_or_else(|| "it runs".to_owned())
        });
        let mut printed = String::new();
        self.child.stderr.take().expect("this machine can").read_to_string(&mut printed).expect("this machine can");
        assert!(status.success(), "{status}: {printed}");
        printed
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("this machine can").permissions().mode() & 0o777
}

/// The pin at the end of a token, by which the authority is known.
fn pin(token: &str) -> String {
    token.trim().rsplit('.').next().expect("this machine can").to_owned()
}

fn token(data: &Path) -> String {
    let output = word(data, &["token", "create"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let token = String::from_utf8(output.stdout).expect("this machine can");
    assert_eq!(token.trim().split('.').map(str::len).collect::<Vec<_>>(), [8, 32, 64], "{token}");
    token
}

/// A token is listed until it is revoked, and what is not there is said.
fn revokes(data: &Path) {
    let token = token(data);
    let (id, rest) = token.split_once('.').expect("this machine can");
    let listed = || String::from_utf8(word(data, &["token", "list"]).stdout).expect("this machine can");
    let all = listed();
    assert!(all.starts_with("ID ") && all.contains(id), "{all}");
    assert!(!all.contains(&rest[..32]), "no secret: {all}");
    assert_eq!(code(&word(data, &["token", "revoke", token.trim()])), 0, "the whole token is as good as its id");
    assert!(!listed().contains(id));
    assert_eq!(code(&word(data, &["token", "revoke", id])), 4);
    let output = word(data, &["node", "revoke", "nobody"]);
    assert!(code(&output) == 4 && said(&output).contains("has joined"), "{}", said(&output));
}

#[test]
fn words_end_with_the_codes_of_the_contract() {
    let dir = tempfile::tempdir().expect("this machine can");
    let data = dir.path().join("data");
    let version = program().arg("version").output().expect("this machine can");
    assert_eq!((code(&version), version.stdout.starts_with(b"daemonlet-control ")), (0, true));
    assert_eq!(code(&program().args(["completion", "bash"]).output().expect("this machine can")), 0);
    assert_eq!(code(&program().args(["serve", "--listen", "x"]).output().expect("this machine can")), 2);
    assert_eq!(code(&program().args(["serve", "--store", "etcd"]).output().expect("this machine can")), 2);
    let asked = [&["token", "create"][..], &["token", "list"], &["node", "revoke", "n"], &["backup", "/nowhere/x"]];
    for words in asked {
        let output = word(&data, words);
        assert_eq!(code(&output), 3, "{}", said(&output));
        assert!(said(&output).contains("daemonlet-control serve"), "{}", said(&output));
    }
    assert!(!data.exists(), "asking makes nothing");
    assert_eq!(code(&word(&data, &["restore", "/nowhere/x"])), 4);
}

#[test]
fn an_endpoint_makes_its_directory_and_tokens_and_copies_while_it_runs_and_when_it_does_not() {
    let dir = tempfile::tempdir().expect("this machine can");
    let (data, copy): (PathBuf, PathBuf) = (dir.path().join("data"), dir.path().join("copy"));
    let copy_text = copy.to_str().expect("this machine can");
    let endpoint = Endpoint::start(&data, &[]);
    assert_eq!(mode(&data), 0o700);
    for file in ["authority", "admin.kubeconfig", "daemonlet-control.sock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let first = token(&data);
    revokes(&data);
    let output = word(&data, &["backup", copy_text]);
    assert_eq!((code(&output), mode(&copy)), (0, 0o600), "{}", said(&output));
    let output = word(&data, &["restore", copy_text]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("in use"), "{}", said(&output));
    let second = serve(&data, &[]).output().expect("this machine can");
    assert_eq!(code(&second), 1);
    assert!(said(&second).contains("in use"), "{}", said(&second));
    let printed = endpoint.stop();
    let secret = first.split('.').nth(1).expect("this machine can");
    assert!(!printed.contains(secret) && printed.contains("a join token was made"), "{printed}");

    assert_eq!(pin(&token(&data)), pin(&first), "without an endpoint, by the directory itself");
    revokes(&data);
    // Into another directory, and over what is there.
    let other = dir.path().join("other");
    for place in [&other, &data] {
        let output = word(place, &["restore", copy_text]);
        assert_eq!(code(&output), 0, "{}", said(&output));
        assert_eq!(pin(&token(place)), pin(&first));
    }
    std::fs::write(&copy, &std::fs::read(&copy).expect("this machine can")[..1000]).expect("this machine can");
    assert_eq!(code(&word(&other, &["restore", copy_text])), 1);
    assert_eq!(pin(&token(&other)), pin(&first), "nothing was replaced");
    let again = Endpoint::start(&other, &[]);
    assert_eq!(pin(&token(&other)), pin(&first));
    again.stop();

    // With its authority, a fleet whose store is lost is not one that begins.
    let store = data.join("store");
    for lost in [false, true] {
        if lost { std::fs::remove_file(&store) } else { std::fs::write(&store, "") }.expect("this machine can");
        let refused = serve(&data, &[]).output().expect("this machine can");
        assert_eq!(code(&refused), 1);
        assert!(said(&refused).contains("restore"), "{}", said(&refused));
    }

    std::fs::write(data.join("authority"), "damaged").expect("this machine can");
    let refused = serve(&data, &[]).output().expect("this machine can");
    assert_eq!(code(&refused), 1);
    assert!(said(&refused).contains("backup"), "{}", said(&refused));
}

#[test]
fn endpoints_that_share_an_etcd_have_one_authority_and_no_store_of_their_own() {
    let dir = tempfile::tempdir().expect("this machine can");
    let etcd = TestEtcd::start();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("this machine can");
        path.display().to_string()
    };
    let identity = etcd.client();
    let (ca, cert, key) = (file("ca", &etcd.authority()), file("cert", &identity.cert), file("key", &identity.key));
    let url = etcd.url();
    let more =
        ["--store", "etcd", "--etcd-endpoints", &url, "--etcd-ca", &ca, "--etcd-cert", &cert, "--etcd-key", &key];
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let (first, second) = (Endpoint::start(&one, &more), Endpoint::start(&other, &more));
    assert_eq!(pin(&token(&one)), pin(&token(&other)));
    for data in [&one, &other] {
        assert!(!data.join("authority").exists() && !data.join("store").exists());
        assert_eq!(mode(&data.join("admin.kubeconfig")), 0o600);
    }
    let refused = word(&one, &["backup", "/nowhere/x"]);
    assert_eq!(code(&refused), 1);
    assert!(said(&refused).contains("etcdctl"), "{}", said(&refused));
    first.stop();
    second.stop();
    assert_eq!(code(&word(&one, &["token", "create"])), 3, "without an endpoint nobody knows where its etcd is");
}
