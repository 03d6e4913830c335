//! A small HTTP server in front of a [`TestRegistry`] that does to chosen requests what bad links and bad
//! servers do: cuts, stalls, wrong bytes, errors, redirects, slowness. Scripted by [`Rule`]s that can be added while it runs:
//!
//! ```no_run
//! # use tests::{faulty::{FaultyProxy, Fault, Rule}, registry::TestRegistry};
//! # let registry = TestRegistry::start();
//! let proxy = FaultyProxy::in_front_of(&registry).start();
//! proxy.add(Rule::on("/blobs/").nth(2).fault(Fault::Stall { after: 100 }));        // the second blob that is asked for
//! proxy.add(Rule::on("GET /v2/app/manifests/1").fault(Fault::status(429).header("Retry-After", "1")));
//! proxy.clear();                                                                    // from now on nothing is wrong
//! assert_eq!(proxy.count("/blobs/"), 0);
//! ```
//!
//! It can also speak TLS, ask for client certificates, be its own token service ([`Builder::bearer`]) and serve as the HTTP proxy that
//! HTTP_PROXY names. For whole pulls there is [`crate::scripted_registry`], which says why there are two. Threads and blocking sockets: it is for tests, with a handful of connections.

mod serve;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::authority::{Authority, Identity};
use crate::registry::TestRegistry;

pub use tokens::Bearer;

/// A running proxy; dropped, it closes every connection.
pub struct FaultyProxy {
    shared: Arc<Shared>,
}

/// When something goes wrong.
#[derive(Debug, Clone)]
pub struct Rule {
    /// A part of `METHOD /path?query`.
    pattern: String,
    from: u64,
    to: u64,
    fault: Fault,
}

/// What goes wrong. `after` counts bytes of this answer's body.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead of the registry's.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// The answer begins properly, and the connection is closed.
    Cut { after: u64 },
    /// The answer begins properly, and then nothing comes until the client gives up.
    Stall { after: u64 },
    /// The connection is closed without a word.
    Silence,
    /// The first byte of the body is another one.
    WrongBytes,
    /// To this base (`http://127.0.0.1:1234`), with path and query as they are.
    Redirect { base: String },
    /// The body comes at this rate.
    Slow { bytes_per_second: u64 },
    /// The whole body, whatever range was asked for.
    IgnoreRange,
    /// A header of the answer has another value, or is missing.
    Header { name: String, value: Option<String> },
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET /v2/…`.
    pub line: String,
    /// As the request's target had it where the client took us for a proxy, else by its Host header.
    pub host: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What a proxy is made of.
pub struct Builder {
    upstream: Option<PathBuf>,
    listener: Option<TcpListener>,
    tls: Option<Tls>,
    bearer: Option<Bearer>,
    tunnels: BTreeMap<String, SocketAddr>,
}

struct Tls {
    identity: Identity,
    client_authority: Option<String>,
}

struct Shared {
    address: SocketAddr,
    secure: bool,
    upstream: Option<PathBuf>,
    config: Option<Arc<rustls::ServerConfig>>,
    bearer: Option<Bearer>,
    tunnels: BTreeMap<String, SocketAddr>,
    state: Mutex<State>,
    sent: AtomicU64,
    stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    /// With the number of requests that have matched.
    rules: Vec<(Rule, u64)>,
    seen: Vec<Seen>,
    tokens: BTreeSet<String>,
    granted: u64,
    connections: Vec<TcpStream>,
}

impl Rule {
    /// Every request whose `METHOD /path?query` contains this.
    pub fn on(pattern: &str) -> Rule {
        Rule { pattern: pattern.to_owned(), from: 1, to: u64::MAX, fault: Fault::Silence }
    }

    /// Only the first n of them.
    pub fn first(mut self, n: u64) -> Rule {
        (self.from, self.to) = (1, n);
        self
    }

    /// Only the n-th, counted from 1.
    pub fn nth(mut self, n: u64) -> Rule {
        (self.from, self.to) = (n, n);
        self
    }

    /// All but the first n.
    pub fn after(mut self, n: u64) -> Rule {
        (self.from, self.to) = (n + 1, u64::MAX);
        self
    }

    pub fn fault(mut self, fault: Fault) -> Rule {
        self.fault = fault;
        self
    }
}

impl Fault {
    pub fn status(status: u16) -> Fault {
        let body = format!("{{\"errors\":[{{\"code\":\"TEST\",\"message\":\"made up {status}\"}}]}}");
        Fault::Answer { status, headers: Vec::new(), body }
    }

    /// Adds a header to an answer.
    pub fn header(mut self, name: &str, value: &str) -> Fault {
        if let Fault::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Gives an answer another body.
    pub fn body(mut self, text: &str) -> Fault {
        if let Fault::Answer { body, .. } = &mut self {
            text.clone_into(body);
        }
        self
    }
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Builder {
    /// Listens here instead of on a free port of 127.0.0.1: in a node's network namespace, or on a fixed address.
    pub fn listener(mut self, listener: TcpListener) -> Builder {
        self.listener = Some(listener);
        self
    }

    /// Speaks TLS with a certificate of this authority for 127.0.0.1 and localhost.
    pub fn tls(mut self, authority: &Authority) -> Builder {
        let identity = authority.server(&["127.0.0.1", "localhost", "registry.test"]);
        self.tls = Some(Tls { identity, client_authority: None });
        self
    }

    /// And lets in only clients with a certificate of that one.
    pub fn client_certificates(mut self, authority: &Authority) -> Builder {
        self.tls.as_mut().expect("tls comes first").client_authority = Some(authority.pem());
        self
    }

    /// Lets in only who shows a token of the service at /token.
    pub fn bearer(mut self, bearer: Bearer) -> Builder {
        self.bearer = Some(bearer);
        self
    }

    /// Where a CONNECT to `host:port` leads, for a proxy that HTTPS_PROXY names.
    pub fn tunnel(mut self, name: &str, to: SocketAddr) -> Builder {
        self.tunnels.insert(name.to_owned(), to);
        self
    }

    pub fn start(self) -> FaultyProxy {
        let listener =
            self.listener.unwrap_or_else(|| TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"));
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("a listener has an address"),
            secure: self.tls.is_some(),
            upstream: self.upstream,
            config: self.tls.as_ref().map(serve::tls_config),
            bearer: self.bearer,
            tunnels: self.tunnels,
            state: Mutex::default(),
            sent: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        std::thread::spawn(move || serve::accept(&for_thread, &listener));
        FaultyProxy { shared }
    }
}

impl FaultyProxy {
    pub fn in_front_of(registry: &TestRegistry) -> Builder {
        Builder { upstream: Some(registry.socket()), ..FaultyProxy::alone() }
    }

    /// Nothing behind it: what no rule answers is 404.
    pub fn alone() -> Builder {
        Builder { upstream: None, listener: None, tls: None, bearer: None, tunnels: BTreeMap::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// `127.0.0.1:port`, as an image's name has it.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `http://127.0.0.1:port`, or https.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.shared.secure { "https" } else { "http" }, self.shared.address)
    }

    /// From now on. Rules are tried in the order in which they were added; the first one that is due acts.
    pub fn add(&self, rule: Rule) {
        self.shared.state().rules.push((rule, 0));
    }

    /// No rules any more.
    pub fn clear(&self) {
        self.shared.state().rules.clear();
    }

    /// Tokens granted so far are no longer accepted, as if they had expired.
    pub fn forget_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many requests contained this in `METHOD /path?query`.
    pub fn count(&self, pattern: &str) -> usize {
        self.shared.state().seen.iter().filter(|seen| seen.line.contains(pattern)).count()
    }

    /// Bytes of bodies that were sent to clients, for what a resumed transfer costs.
    pub fn body_bytes(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for connection in &self.shared.state().connections {
            // A connection that is closed already is as good.
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, wherever its listener lives.
        self.shared.wake();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let _ = TcpStream::connect(self.address);
    }

    /// Notes the request and says what is to go wrong with it.
    fn due(&self, seen: Seen) -> Option<Fault> {
        let mut state = self.state();
        let mut due = None;
        for (rule, matched) in &mut state.rules {
            if seen.line.contains(&rule.pattern) {
                *matched += 1;
                if due.is_none() && (rule.from..=rule.to).contains(matched) {
                    due = Some(rule.fault.clone());
                }
            }
        }
        state.seen.push(seen);
        due
    }
}
