//! The proxy's connections: requests read, the registry asked, its answer passed on with what is to go wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::tokens::{Reply, gate};
use super::{Fault, Seen, Shared, Tls};
use crate::wait::pause;

/// The largest head and the largest request body that the tests have a use for.
const HEAD_MAX: usize = 64 << 10;
const BODY_MAX: u64 = 1 << 20;

const CHUNK: usize = 16 << 10;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub fn tls_config(tls: &Tls) -> Arc<ServerConfig> {
    let chain =
        |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.expect("made by us")).collect::<Vec<_>>();
    let key = PrivateKeyDer::from_pem_slice(tls.identity.key.as_bytes()).expect("made by us");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("both");
    let builder = match &tls.client_authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in chain(pem) {
                roots.add(certificate).expect("made by us");
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("one root is enough"))
        }
    };
    Arc::new(builder.with_single_cert(chain(&tls.identity.cert), key).expect("made by us"))
}

pub fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for connection in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        if let Ok(clone) = connection.try_clone() {
            shared.state().connections.push(clone);
        }
        let shared = shared.clone();
        // What goes wrong on a connection is its client's to notice.
        std::thread::spawn(move || {
            let _ = connection.set_nodelay(true);
            let closing = connection.try_clone();
            let _ = serve(&shared, connection);
            // The clone that is kept for the end would keep the connection open.
            if let Ok(closing) = closing {
                let _ = closing.shutdown(Shutdown::Both);
            }
        });
    }
}

fn serve(shared: &Shared, connection: TcpStream) -> io::Result<()> {
    let stream: Box<dyn Stream> = match &shared.config {
        None => Box::new(connection.try_clone()?),
        Some(config) => {
            let server = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(server, connection.try_clone()?))
        }
    };
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_head(&mut stream)? {
        if let Some(name) = head[0].strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) {
            return tunnel(shared, name, &head, stream, connection);
        }
        let seen = seen(&head);
        let mut body = String::new();
        let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        (&mut stream).take(u64::min(length, BODY_MAX)).read_to_string(&mut body)?;
        if !answer(shared, &mut stream, seen, &body)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Lines without their ends; none at the end of the connection.
fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    let mut size = 0;
    loop {
        let mut line = String::new();
        size += stream.take(HEAD_MAX as u64).read_line(&mut line)?;
        if line.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        if size > HEAD_MAX || line.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match line.trim_end() {
            "" => return Ok(Some(lines)),
            line => lines.push(line.to_owned()),
        }
    }
}

fn seen(head: &[String]) -> Seen {
    let headers: Vec<(String, String)> = head[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut words = head[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // A client that takes us for a proxy sends the whole URL.
    let (host, path) =
        match target.strip_prefix("http://").map(|rest| rest.split_at(rest.find('/').unwrap_or(rest.len()))) {
            Some((host, path)) => (host.to_owned(), path.to_owned()),
            None => {
                let host = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
                (host.unwrap_or_default(), target.to_owned())
            }
        };
    Seen { line: format!("{method} {path}"), host, headers }
}

/// Answers one request; false where the connection ends with it.
fn answer(shared: &Shared, stream: &mut BufReader<Box<dyn Stream>>, seen: Seen, body: &str) -> io::Result<bool> {
    let fault = shared.due(seen.clone());
    let own = match &fault {
        Some(Fault::Answer { status, headers, body }) => {
            Some(Reply { status: *status, headers: headers.clone(), body: body.clone() })
        }
        Some(Fault::Redirect { base }) => {
            let path = seen.line.split(' ').nth(1).unwrap_or_default();
            let to = vec![("Location".to_owned(), format!("{base}{path}"))];
            Some(Reply { status: 307, headers: to, body: String::new() })
        }
        Some(Fault::Silence) => return Ok(false),
        _ => shared.bearer.as_ref().and_then(|bearer| gate(shared, bearer, &seen, body)),
    };
    let head_only = seen.line.starts_with("HEAD ");
    let own = own.or_else(|| {
        let missing = Reply { status: 404, headers: Vec::new(), body: String::new() };
        shared.upstream.is_none().then_some(missing)
    });
    if let Some(reply) = own {
        let mut text = format!("HTTP/1.1 {} Made Up\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let body = if head_only { "" } else { &reply.body };
        stream.get_mut().write_all(format!("{text}\r\n{body}").as_bytes())?;
        stream.get_mut().flush()?;
        return Ok(true);
    }
    pass_on(shared, stream, &seen, body, fault, head_only)
}

/// Asks the registry and passes its answer on.
fn pass_on(
    shared: &Shared,
    stream: &mut BufReader<Box<dyn Stream>>,
    seen: &Seen,
    body: &str,
    fault: Option<Fault>,
    head_only: bool,
) -> io::Result<bool> {
    let mut upstream = UnixStream::connect(shared.upstream.as_ref().expect("looked at before"))?;
    let mut text = format!("{} HTTP/1.1\r\nConnection: close\r\n", seen.line);
    for (name, value) in &seen.headers {
        let hidden = match name.as_str() {
            "connection" | "proxy-connection" => true,
            "authorization" => shared.bearer.is_some(),
            "range" => matches!(fault, Some(Fault::IgnoreRange)),
            _ => false,
        };
        if !hidden {
            text += &format!("{name}: {value}\r\n");
        }
    }
    upstream.write_all(format!("{text}\r\n{body}").as_bytes())?;
    let mut upstream = BufReader::new(upstream);
    let head = read_head(&mut upstream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let length =
        head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut text = format!("{}\r\n", head[0]);
    for line in &head[1..] {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let changed = matches!(&fault, Some(Fault::Header { name: other, .. }) if other.to_ascii_lowercase() == name);
        if name != "connection" && !changed {
            text += &format!("{line}\r\n");
        }
    }
    if let Some(Fault::Header { name, value: Some(value) }) = &fault {
        text += &format!("{name}: {value}\r\n");
    }
    // Without a length only the connection's end ends the body.
    if length.is_none() {
        text += "Connection: close\r\n";
    }
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
    stream.get_mut().flush()?;
    if head_only {
        return Ok(true);
    }
    let mut left = length.unwrap_or(u64::MAX);
    let mut count = 0_u64;
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let limit = match &fault {
            Some(Fault::Cut { after } | Fault::Stall { after }) => after.saturating_sub(count),
            Some(Fault::Slow { bytes_per_second }) => (bytes_per_second / 20).max(1),
            _ => CHUNK as u64,
        };
        if limit == 0 {
            if matches!(fault, Some(Fault::Stall { .. })) {
                return stall(shared, stream);
            }
            return Ok(false);
        }
        let most = usize::try_from(limit.min(left)).unwrap_or(CHUNK).min(CHUNK);
        let read = upstream.read(&mut chunk[..most])?;
        if read == 0 {
            return Ok(false);
        }
        if count == 0 && matches!(fault, Some(Fault::WrongBytes)) {
            chunk[0] ^= 0xff;
        }
        stream.get_mut().write_all(&chunk[..read])?;
        stream.get_mut().flush()?;
        count += read as u64;
        left -= read as u64;
        shared.sent.fetch_add(read as u64, Ordering::SeqCst);
        if matches!(fault, Some(Fault::Slow { .. })) {
            pause(Duration::from_millis(50));
        }
    }
    Ok(length.is_some())
}

/// Says nothing more, until the client or the proxy ends the connection.
fn stall(shared: &Shared, stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<bool> {
    let mut byte = [0];
    loop {
        if shared.stopped.load(Ordering::SeqCst) || stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
    }
}

/// CONNECT: bytes both ways, unseen.
fn tunnel(
    shared: &Shared,
    name: &str,
    head: &[String],
    mut stream: BufReader<Box<dyn Stream>>,
    mut connection: TcpStream,
) -> io::Result<()> {
    shared.due(Seen { host: name.to_owned(), line: head[0].clone(), ..seen(head) });
    let Some(to) = shared.tunnels.get(name) else {
        return stream.get_mut().write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    };
    let mut there = TcpStream::connect(to)?;
    shared.state().connections.push(there.try_clone()?);
    stream.get_mut().write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut back_from, mut back_to) = (there.try_clone()?, connection.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut connection, &mut there);
    let _ = there.shutdown(Shutdown::Both);
    let _ = back.join();
    Ok(())
}
