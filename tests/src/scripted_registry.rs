//! A registry in memory that fails as it is told: cuts, stalls, wrong bytes, statuses, no ranges, redirects, slow links; it counts what
//! it served. Driven by tests; it speaks as much of the distribution protocol as a pull needs, over plain HTTP on loopback.
//!
//! Why there is [`crate::faulty`] beside it: that one stands before Debian's docker-registry, so it proves that we understand a registry
//! that others wrote, with TLS, tokens and proxies, one request at a time. This one is for whole pulls: it needs no other program, serves
//! inside a node's network namespace, counts bytes by digest, holds an answer until the test lets it go on, and starts in no time.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::image::Layout;

/// What is written at once: small, so that a cut is where it is asked for and a slow link is smooth.
const CHUNK: usize = 16 << 10;

/// A running registry. Dropped, it takes no more connections.
#[derive(Clone)]
pub struct ScriptedRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Content by digest.
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    /// Digest and media type by `repository:tag`.
    tags: BTreeMap<String, (String, String)>,
    /// Media types of manifests by digest.
    types: BTreeMap<String, String>,
    rules: Vec<Rule>,
    /// `METHOD path` of every request, in order.
    requests: Vec<String>,
    /// Bytes of bodies by digest.
    served: BTreeMap<String, u64>,
    /// Bytes a second of every body; 0: as fast as it goes.
    rate: u64,
    stalled: bool,
    /// The Authorization header without which nothing is served; empty: anybody may.
    authorization: String,
}

struct Rule {
    /// A part of the path.
    path: String,
    times: u32,
    act: Act,
}

/// What happens instead of a good answer.
#[derive(Debug, Clone)]
pub enum Act {
    /// This status line's number, with these header lines.
    Status(u16, Vec<String>),
    /// The connection ends when the blob's byte at this offset would be sent.
    CutAt(u64),
    /// Nothing more is sent from this offset on until [`ScriptedRegistry::go_on`].
    StallAt(u64),
    /// As StallAt, and then the rest comes.
    HoldAt(u64),
    /// The byte at this offset is another one.
    WrongAt(u64),
    /// A Range header is not seen.
    NoRanges,
    /// 307 to this URL's beginning with the same path behind it.
    Redirect(String),
}

impl ScriptedRegistry {
    /// On a free port of 127.0.0.1.
    pub fn start() -> ScriptedRegistry {
        ScriptedRegistry::on(TcpListener::bind("127.0.0.1:0").expect("loopback has a free port"))
    }

    /// On a socket that was bound in whichever network namespace.
    pub fn on(listener: TcpListener) -> ScriptedRegistry {
        let address = listener.local_addr().expect("a bound socket has an address");
        let registry = ScriptedRegistry { address, shared: Arc::default() };
        let shared = Arc::downgrade(&registry.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), Some(shared)) = (stream, shared.upgrade()) else { return };
                std::thread::spawn(move || {
                    // A client that goes away is what half of the tests are about.
                    let _gone = serve(&shared, stream);
                });
            }
        });
        registry
    }

    /// `127.0.0.1:PORT`, as an image's name begins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Puts a layout's content under a repository, its first manifest or index under the tag. The image's name.
    pub fn push(&self, repository: &str, tag: &str, layout: &Layout) -> String {
        let mut state = self.state();
        for (digest, content) in &layout.blobs {
            state.blobs.insert(digest.clone(), Arc::new(content.clone()));
            let parsed: Option<serde_json::Value> =
                (content.len() < 1 << 20).then(|| serde_json::from_slice(content).ok()).flatten();
            if let Some(media_type) = parsed.as_ref().and_then(|value| value["mediaType"].as_str()) {
                state.types.insert(digest.clone(), media_type.to_owned());
            }
        }
        let first = &layout.manifests[0];
        let text = |key: &str| first[key].as_str().expect("a descriptor has a digest and a type").to_owned();
        state.tags.insert(format!("{repository}:{tag}"), (text("digest"), text("mediaType")));
        format!("{}/{repository}:{tag}", self.address)
    }

    /// The next `times` requests whose path contains this are answered so.
    pub fn fault(&self, path: &str, times: u32, act: Act) {
        self.state().rules.push(Rule { path: path.to_owned(), times, act });
    }

    /// Only who logs in so (basic authentication) is served.
    pub fn require(&self, user: &str, password: &str) {
        self.state().authorization = format!("basic {}", base64(&format!("{user}:{password}")));
    }

    /// Every rule that is left is forgotten, and who was stalled goes on.
    pub fn go_on(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.stalled = false;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Bytes a second of every body from now on; 0: no limit.
    pub fn slow(&self, bytes_per_second: u64) {
        self.state().rate = bytes_per_second;
    }

    /// Bytes of this content that were sent, over all requests.
    pub fn served(&self, digest: &str) -> u64 {
        self.state().served.get(digest).copied().unwrap_or(0)
    }

    /// How many requests had this in their line (`GET /v2/a/manifests/1`).
    pub fn asked(&self, part: &str) -> usize {
        self.state().requests.iter().filter(|line| line.contains(part)).count()
    }

    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        if Arc::strong_count(&self.shared) == 1 {
            // Wakes the acceptor, which sees that nobody is left; in another namespace it ends with the process.
            let _woken = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until [`ScriptedRegistry::go_on`].
    fn stall(&self) {
        let mut state = self.state();
        state.stalled = true;
        while state.stalled {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Request {
    method: String,
    path: String,
    from: Option<u64>,
    authorization: String,
}

/// RFC 4648, as a client's header has it.
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = text.as_bytes().chunks(3).flat_map(|group| {
        let bits = group.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        (0..4).map(move |digit| match digit <= group.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]),
            false => '=',
        })
    });
    groups.collect()
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(request) = read(&mut reader)? {
        answer(shared, &request, &mut writer)?;
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut from, mut authorization) = (None, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            return Ok(Some(Request { method, path, from, authorization }));
        }
        if let Some((_, value)) = header.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case("authorization")) {
            let (scheme, rest) = value.trim().split_once(' ').unwrap_or_default();
            authorization = format!("{} {rest}", scheme.to_ascii_lowercase());
        }
        if let Some(range) = header.to_ascii_lowercase().trim().strip_prefix("range: bytes=") {
            from = range.split('-').next().and_then(|from| from.parse().ok());
        }
    }
}

fn answer(shared: &Shared, request: &Request, writer: &mut TcpStream) -> io::Result<()> {
    let (act, content) = {
        let mut state = shared.state();
        state.requests.push(format!("{} {}", request.method, request.path));
        if !state.authorization.is_empty() && state.authorization != request.authorization {
            drop(state);
            return write!(
                writer,
                "HTTP/1.1 401 Told\r\nContent-Length: 0\r\nWWW-Authenticate: Basic realm=\"told\"\r\n\r\n"
            );
        }
        let found = state.rules.iter_mut().find(|rule| rule.times > 0 && request.path.contains(&rule.path));
        let act = found.map(|rule| {
            rule.times -= 1;
            rule.act.clone()
        });
        (act, state.find(&request.path))
    };
    match (&act, content) {
        (Some(Act::Status(status, headers)), _) => {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            write!(writer, "HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n{headers}\r\n")
        }
        (Some(Act::Redirect(to)), _) => {
            write!(writer, "HTTP/1.1 307 Told\r\nContent-Length: 0\r\nLocation: {to}{}\r\n\r\n", request.path)
        }
        (_, None) if request.path.trim_end_matches('/') == "/v2" => {
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}")
        }
        (_, None) => write!(writer, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        (act, Some(found)) => found.send(shared, request, act.as_ref(), writer),
    }
}

struct Found {
    digest: String,
    media_type: String,
    bytes: Arc<Vec<u8>>,
}

impl State {
    fn find(&self, path: &str) -> Option<Found> {
        // A mirror is told whose content is wanted; what it has lies under the same name.
        let path = path.split('?').next()?.strip_prefix("/v2/")?;
        let (digest, media_type) = if let Some((_, digest)) = path.split_once("/blobs/") {
            (digest.to_owned(), "application/octet-stream".to_owned())
        } else {
            let (repository, reference) = path.split_once("/manifests/")?;
            match reference.starts_with("sha256:") {
                true => (reference.to_owned(), self.types.get(reference)?.clone()),
                false => self.tags.get(&format!("{repository}:{reference}"))?.clone(),
            }
        };
        let bytes = Arc::clone(self.blobs.get(&digest)?);
        Some(Found { digest, media_type, bytes })
    }
}

impl Found {
    fn send(&self, shared: &Shared, request: &Request, act: Option<&Act>, writer: &mut TcpStream) -> io::Result<()> {
        let total = self.bytes.len() as u64;
        let from = match act {
            Some(Act::NoRanges) => None,
            _ => request.from.filter(|from| *from < total),
        };
        let range = from.map(|from| format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let (from, range) = (from.unwrap_or(0), range.unwrap_or_default());
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {}\r\nDocker-Content-Digest: {}\r\n{range}\r\n",
            total - from,
            self.media_type,
            self.digest,
        )?;
        if request.method == "HEAD" {
            return Ok(());
        }
        let mut at = from;
        while at < total {
            let mut end = total.min(at + CHUNK as u64);
            match act {
                Some(Act::CutAt(cut)) if at >= *cut => return Err(io::Error::other("cut as told")),
                Some(Act::CutAt(cut)) => end = end.min(*cut),
                Some(Act::StallAt(stall)) if at >= *stall => {
                    shared.stall();
                    return Err(io::Error::other("stalled as told"));
                }
                Some(Act::HoldAt(hold)) if at == *hold => shared.stall(),
                Some(Act::StallAt(stall) | Act::HoldAt(stall)) if at < *stall => end = end.min(*stall),
                _ => {}
            }
            let mut chunk = self.bytes[at as usize..end as usize].to_vec();
            if let Some(Act::WrongAt(wrong)) = act
                && (at..end).contains(wrong)
            {
                chunk[(wrong - at) as usize] ^= 0xff;
            }
            // Counted before it is sent: who has received it finds it counted.
            let rate = {
                let mut state = shared.state();
                *state.served.entry(self.digest.clone()).or_default() += chunk.len() as u64;
                state.rate
            };
            writer.write_all(&chunk)?;
            if let Some(time) = (chunk.len() as u64 * 1_000_000).checked_div(rate) {
                std::thread::sleep(Duration::from_micros(time));
            }
            at = end;
        }
        Ok(())
    }
}
