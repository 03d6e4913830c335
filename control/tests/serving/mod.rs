//! An endpoint's HTTP door on loopback, over the embedded store, and kubectl beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use control::api::error::ApiError;
use control::api::kinds::{Kind, by_kind};
use control::api::objects::{Guard, Objects, WriteOptions};
use control::clock::Clock;
use control::http::{self, Answering, Attributes, Checks, Door, Gate, Identity, LogOptions, LogStream, Logs};
use control::store::embedded::Embedded;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::authority::Authority;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// Whoever shows it may do everything here.
const TOKEN: &str = "of-the-test";

/// A door that is served by a thread of its own until it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    pub authority_pem: String,
    pub dir: TempDir,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    pub fn start() -> Serving {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        let own = authority.server(&["127.0.0.1", "localhost"]);
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let place = dir.path().join("store");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let objects = Objects::new(Embedded::open(&place).expect("a store"), Clock::system());
                namespaces(&objects).await;
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send(listener.local_addr().expect("it is bound")).expect("it is waited for");
                let door = Door::new(objects, Arc::new(OneToken), Arc::new(NoNode), Checks::default());
                http::serve(listener, Arc::new(tls(&own)), Arc::new(door), stopped).await;
            });
        });
        let address = told.blocking_recv().expect("it listens");
        let authority_pem = authority.pem();
        let serving = Serving { address, authority_pem, dir, stop, thread: Some(thread) };
        serving.write_kubeconfig();
        serving
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn write_kubeconfig(&self) {
        let authority = self.dir.path().join("ca.pem");
        std::fs::write(&authority, &self.authority_pem).expect("written");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority": authority } }],
            "users": [{ "name": "test", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        std::fs::write(self.kubeconfig(), config.to_string()).expect("written");
    }

    /// A file for `-f`.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
    }
}

/// The namespaces that the program makes at its start.
async fn namespaces(objects: &Objects) {
    let kind = by_kind("", "v1", "Namespace").expect("a kind");
    for name in ["default", "kube-system"] {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        objects.create(kind, "", object, &WriteOptions::default()).await.expect("it is new");
    }
}

fn tls(own: &tests::authority::Identity) -> rustls::ServerConfig {
    let chain =
        CertificateDer::pem_slice_iter(own.cert.as_bytes()).collect::<Result<Vec<_>, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config =
        builder.expect("its own versions").with_no_client_auth().with_single_cert(chain, key).expect("they fit");
    config.alpn_protocols = http::PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config
}

/// Everybody with the test's token may do everything, nobody else anything.
struct OneToken;

impl Gate for OneToken {
    fn who<'a>(&'a self, _: &'a [CertificateDer<'static>], bearer: Option<&'a str>) -> Answering<'a, Identity> {
        Box::pin(async move {
            match bearer {
                Some(TOKEN) => Ok(Identity { name: "admin".into(), groups: vec!["system:masters".into()] }),
                Some(_) => Err(ApiError::unauthorized()),
                None => Ok(Identity { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }),
            }
        })
    }

    fn may<'a>(
        &'a self,
        user: &'a Identity,
        asked: &'a Attributes<'a>,
        kind: Option<&'static Kind>,
    ) -> Answering<'a, ()> {
        Box::pin(async move {
            let why = format!("User {:?} cannot {} here", user.name, asked.verb);
            match kind {
                _ if user.name == "admin" => Ok(()),
                Some(kind) => Err(ApiError::forbidden(kind, asked.name, &why)),
                None => Err(ApiError::forbidden_path(&why)),
            }
        })
    }

    fn review<'a>(&'a self, _: &'static Kind, _: &'a str, mut object: Value, _: &'a Identity) -> Answering<'a, Value> {
        Box::pin(async move {
            object["status"] = json!({ "allowed": true, "reason": "a test" });
            Ok(object)
        })
    }

    fn token<'a>(&'a self, _: &'a str, account: &'a str, mut request: Value, _: &'a Identity) -> Answering<'a, Value> {
        Box::pin(async move {
            request["status"] =
                json!({ "token": format!("for-{account}"), "expirationTimestamp": "2030-01-01T00:00:00Z" });
            Ok(request)
        })
    }

    fn guard(&self, _: &Identity) -> Option<Arc<dyn Guard>> {
        None
    }

    fn document(&self, _: &str) -> Option<Value> {
        None
    }

    fn wrote(&self, _: &Identity, _: &Attributes<'_>, _: IpAddr, _: u16) {}
}

/// No node has a session: logs are two lines of our own for containers called `talks`.
struct NoNode;

impl Logs for NoNode {
    fn open<'a>(&'a self, pod: &'a Value, container: &'a str, options: &'a LogOptions) -> Answering<'a, LogStream> {
        Box::pin(async move {
            if container != "talks" {
                let node = &pod["spec"]["nodeName"];
                return Err(ApiError::unavailable(format!("no session with node {node}")));
            }
            let (pieces, stream) = tokio::sync::mpsc::channel(2);
            let lines = if options.tail == Some(1) { vec!["two\n"] } else { vec!["one\n", "two\n"] };
            for line in lines {
                pieces.try_send(line.into()).expect("there is room");
            }
            Ok(stream)
        })
    }
}

/// One kubectl program.
pub struct Kubectl<'a> {
    pub serving: &'a Serving,
    pub program: PathBuf,
}

/// What it printed.
#[derive(Debug)]
pub struct Printed {
    pub out: String,
    pub err: String,
    pub good: bool,
}

impl Kubectl<'_> {
    /// The current one or Debian's, where scripts/kubectl.sh has put them.
    pub fn program(name: &str) -> Option<PathBuf> {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubectl").join(name);
        place.exists().then_some(place)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Its cache lies in HOME; nothing of the machine's own configuration is read.
        let home = self.serving.dir.path().join(self.program.file_name().expect("a program"));
        command.env_clear().env("HOME", home).env("KUBECONFIG", self.serving.kubeconfig());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null()).args(arguments);
        command
    }

    /// Runs it to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Printed {
        Printed::of(self.command(arguments).output().expect("it starts"))
    }

    /// What it says when all is well.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(printed.good, "{arguments:?}: {printed:?}");
        printed.out
    }

    /// What it complains of.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments);
        assert!(!printed.good, "{arguments:?}: {printed:?}");
        printed.err
    }
}

impl Printed {
    fn of(output: Output) -> Printed {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
        Printed { out: text(output.stdout), err: text(output.stderr), good: output.status.success() }
    }
}
