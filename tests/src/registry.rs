//! Debian's docker-registry as a test's own: on a Unix socket in a temporary directory, so that it has no port to fight for and can be
//! reached from every network namespace. What clients talk to is a [`FaultyProxy`](crate::faulty::FaultyProxy) in front of it:
//!
//! ```no_run
//! use tests::{faulty::{FaultyProxy, Fault, Rule}, image::Image, registry::TestRegistry};
//! let registry = TestRegistry::start();
//! let pushed = registry.push("team/app", "1", &Image::busybox("any").unwrap().gzip());
//! let proxy = FaultyProxy::in_front_of(&registry).start();           // plain HTTP on a free port of 127.0.0.1
//! proxy.add(Rule::on("/blobs/sha256:").first(1).fault(Fault::Cut { after: 4096 }));
//! let image = format!("{}/team/app:1", proxy.host());                // e.g. 127.0.0.1:41234/team/app:1
//! # let _ = (pushed, image);
//! ```
//!
//! On a [`TestNode`](crate::node::TestNode), whose agent lives in a network namespace of its own, the listener is made inside of it:
//! `FaultyProxy::in_front_of(&registry).listener(node.inside(|| TcpListener::bind("127.0.0.1:5000").unwrap())).start()`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::image::{Image, Layout};
use crate::wait::wait_within;

/// The login that [`TestRegistry::with_password`] takes.
pub const USER: &str = "daemon";
pub const PASSWORD: &str = "correct horse";

/// [`PASSWORD`] as bcrypt with few rounds, the only kind of hash that docker-registry reads.
const HTPASSWD: &str = "daemon:$2b$04$Nq4vijeytZCXwulXt3cGd.GQTXxOmYLdwGDVq143SQ3ey1oXfT4A6\n";

/// A running docker-registry; dropped, it is ended by its process id and its storage is deleted.
pub struct TestRegistry {
    process: Child,
    dir: tempfile::TempDir,
    password: bool,
}

/// What a push left in the registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// `sha256:…` of the manifest or index that the tag names.
    pub digest: String,
    /// Digest and size of every layer, lowest first (of the first image, where there are several).
    pub layers: Vec<(String, u64)>,
    pub config: String,
}

/// Where scripts/setup.sh unpacks it, or where Debian's package puts it.
pub(crate) fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/docker-registry/usr/bin/docker-registry");
    if unpacked.exists() { unpacked } else { PathBuf::from("docker-registry") }
}

impl TestRegistry {
    /// Anybody may pull and push.
    pub fn start() -> TestRegistry {
        Self::start_with(false)
    }

    /// Asks for [`USER`] and [`PASSWORD`] (basic authentication, checked by docker-registry itself).
    pub fn with_password() -> TestRegistry {
        Self::start_with(true)
    }

    fn start_with(password: bool) -> TestRegistry {
        let dir = tempfile::Builder::new().prefix("daemonlet-reg-").tempdir().expect("a temporary directory");
        let shown = dir.path().display();
        let auth = if password {
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {shown}/htpasswd\n")
        } else {
            String::new()
        };
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("writing to a temporary directory");
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {shown}/storage\n  delete:\n    enabled: true\n\
             http:\n  net: unix\n  addr: {shown}/socket\n  relativeurls: true\n  secret: test\n{auth}"
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("writing to a temporary directory");
        let log = std::fs::File::create(dir.path().join("log")).expect("writing to a temporary directory");
        let process = Command::new(program())
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("docker-registry: {e}; scripts/setup.sh test fetches it"));
        let registry = TestRegistry { process, dir, password };
        wait_within(Duration::from_secs(30), "docker-registry answers", || {
            UnixStream::connect(registry.socket()).map(drop).map_err(|e| format!("{e}\n{}", registry.log()))
        });
        registry
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Pushes one image under `repository:tag`. The image's own names do not matter.
    #[track_caller]
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let mut image = image.clone();
        image.names = vec!["pushed".to_owned()];
        self.push_layout(repository, tag, &Layout::of(&[image]))
    }

    /// Pushes the first manifest or index of a layout with all its blobs: several platforms, or broken on purpose.
    #[track_caller]
    pub fn push_layout(&self, repository: &str, tag: &str, layout: &Layout) -> Pushed {
        let top = layout.manifests.first().expect("the layout lists something");
        let digest = top["digest"].as_str().expect("a descriptor has a digest").to_owned();
        let mut documents = Vec::new();
        self.documents(layout, top, &mut documents);
        for (digest, content) in &layout.blobs {
            if !documents.iter().any(|(document, _)| document == digest) {
                self.push_blob(repository, digest, content);
            }
        }
        // An index is accepted only after what it lists.
        for (document, media_type) in documents.iter().rev() {
            let name = if *document == digest { tag } else { document };
            self.put_manifest(repository, name, media_type, &layout.blobs[document]);
        }
        let first =
            documents.iter().map(|(digest, _)| parse(&layout.blobs[digest])).find(|doc| doc["layers"].is_array());
        let first = first.expect("the layout has an image");
        let layers = first["layers"].as_array().into_iter().flatten();
        Pushed {
            digest,
            layers: layers
                .map(|l| (l["digest"].as_str().unwrap_or_default().to_owned(), l["size"].as_u64().unwrap_or_default()))
                .collect(),
            config: first["config"]["digest"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// The manifests below a descriptor, itself first.
    fn documents(&self, layout: &Layout, descriptor: &Value, found: &mut Vec<(String, String)>) {
        let text = |name: &str| descriptor[name].as_str().unwrap_or_default().to_owned();
        let document = parse(&layout.blobs[&text("digest")]);
        found.push((text("digest"), text("mediaType")));
        for inner in document["manifests"].as_array().into_iter().flatten() {
            self.documents(layout, inner, found);
        }
    }

    #[track_caller]
    pub fn push_blob(&self, repository: &str, digest: &str, content: &[u8]) {
        let (status, headers) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), None, &[]);
        assert_eq!(status, 202, "an upload is begun: {}", self.log());
        let location = headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.clone());
        let location = location.expect("an upload has a location");
        let glue = if location.contains('?') { '&' } else { '?' };
        let (status, _) =
            self.request("PUT", &format!("{location}{glue}digest={digest}"), Some("application/octet-stream"), content);
        assert_eq!(status, 201, "a blob is pushed: {}", self.log());
    }

    #[track_caller]
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, content: &[u8]) {
        let (status, _) =
            self.request("PUT", &format!("/v2/{repository}/manifests/{reference}"), Some(media_type), content);
        assert_eq!(status, 201, "a manifest is pushed: {}", self.log());
    }

    /// One request to the registry itself; status and headers (names in lower case).
    fn request(
        &self,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: &[u8],
    ) -> (u16, Vec<(String, String)>) {
        let mut stream = UnixStream::connect(self.socket()).expect("docker-registry listens");
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if let Some(content_type) = content_type {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        if self.password {
            head += "Authorization: Basic ZGFlbW9uOmNvcnJlY3QgaG9yc2U=\r\n";
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("docker-registry reads");
        // It may refuse before it has read all of the body; its answer says why.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("docker-registry answers");
        let text = String::from_utf8_lossy(&answer);
        let head = text.split("\r\n\r\n").next().unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let headers = lines.filter_map(|line| line.split_once(':'));
        (status, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect())
    }
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("the layout's documents are JSON")
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
