use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;
use crate::board::Check;
use crate::cli::served::Served;

/// Sends text and reads to the end of the stream, with a bound.
fn exchange(served: &Served, text: &str) -> String {
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    read_all(&mut stream)
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer (the server closed with our bytes unread) leaves what came before it.
    let _reset = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(served: &Served, path: &str) -> String {
    exchange(served, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n"))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn a_dead_containerd_fails_readyz_only() {
    let served = Served::start();
    for check in Check::ALL {
        served.board.set_check(check, Ok(()));
    }
    assert_eq!((status(&get(&served, "/readyz")), body(&get(&served, "/readyz"))), ("200", "ok"));
    served.board.set_check(Check::Containerd, Err("connection refused".into()));
    assert_eq!(status(&get(&served, "/livez")), "200");
    assert_eq!(status(&get(&served, "/healthz")), "200");
    let answer = get(&served, "/readyz?verbose");
    assert_eq!(status(&answer), "500");
    assert_eq!(
        body(&answer),
        "[+]loop ok\n[-]containerd failed: connection refused\n[+]source-static ok\n[+]cni ok\nreadyz check failed\n"
    );
    assert_eq!(status(&get(&served, "/readyz/loop")), "200");
    assert_eq!(status(&get(&served, "/readyz/containerd")), "500");
    assert_eq!(status(&get(&served, "/readyz/nonsense")), "404");
    assert_eq!(body(&get(&served, "/livez?verbose")), "[+]loop ok\nlivez check passed\n");
}

#[test]
fn a_loop_that_stands_still_fails_livez() {
    let served = Served::start();
    served.board.set_check(Check::Loop, Err("no progress for 60s".into()));
    assert_eq!(status(&get(&served, "/livez")), "500");
    assert_eq!(body(&get(&served, "/livez")), "[-]loop failed: no progress for 60s\nlivez check failed\n");
}

#[test]
fn a_foreign_host_header_is_refused() {
    let served = Served::start();
    for host in ["evil.example", "127.0.0.1.evil.example:80", ""] {
        let answer = exchange(&served, &format!("GET /pods HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!(status(&answer), "403", "{host:?}");
    }
    let answer = exchange(&served, "GET /pods HTTP/1.0\r\n\r\n");
    assert_eq!(status(&answer), "403", "no Host header");
    let answer =
        exchange(&served, "GET http://evil.example/pods HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), "403", "an absolute target");
    assert_eq!(status(&get(&served, "/pods")), "200");
}

#[test]
fn pods_and_metrics_are_read_and_nothing_else_is_there() {
    let served = Served::start();
    assert_eq!(body(&get(&served, "/pods")).trim(), r#"{"apiVersion":"v1","items":[],"kind":"PodList","metadata":{}}"#);
    let metrics = get(&served, "/metrics");
    assert!(metrics.contains("text/plain; version=0.0.4") && !body(&metrics).contains("# EOF"), "{metrics}");
    assert_eq!(status(&get(&served, "/nonsense")), "404");
    assert_eq!(status(&get(&served, "/v1/pods")), "404", "client words are not served here");
    let post =
        exchange(&served, "POST /pods HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&post), "405");
    let head = exchange(&served, "HEAD /pods HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((status(&head), body(&head)), ("200", ""));
}

#[tokio::test]
async fn off_loopback_only_health_is_served() {
    let (board, _commands) = Board::new();
    board.set_check(Check::Loop, Ok(()));
    for (path, code) in [("/livez", 200), ("/pods", 403), ("/metrics", 403), ("/v1/pods", 404)] {
        let request = Request::builder().uri(path).header("host", "node.example:10348").body(()).unwrap();
        assert_eq!(loopback::answer(&board, false, &request).await.status().as_u16(), code, "{path}");
    }
}

#[test]
fn a_head_without_end_is_cut_off() {
    let served = Served::start();
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
    let mut sent = 0;
    // The write fails once the server has closed.
    while sent < 64 * HEAD_BYTES_MAX && stream.write_all(&[b'a'; 1024]).is_ok() {
        sent += 1024;
    }
    let _closed = stream.shutdown(Shutdown::Write);
    let answer = read_all(&mut stream);
    assert!(answer.is_empty() || status(&answer).starts_with('4'), "{answer}");
    assert_eq!(status(&get(&served, "/livez")).len(), 3, "others are still served");
}

#[test]
fn a_silent_connection_is_closed_in_time() {
    let served = Served::start();
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(HEAD_TIME_MAX * 3)).unwrap();
    let begun = Instant::now();
    let mut bytes = Vec::new();
    let _any = stream.read_to_end(&mut bytes);
    assert!(begun.elapsed() < HEAD_TIME_MAX * 2, "still open after {:?}", begun.elapsed());
}

#[test]
fn the_socket_is_for_root_alone_and_gone_after_the_stop() {
    let served = Served::start();
    let path = served.socket();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let dir = served.stop();
    assert!(!dir.path().join("run").join(SOCKET).exists());
}

#[tokio::test]
async fn two_agents_cannot_share_a_run_directory_but_a_dead_ones_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let stale = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    drop(stale);
    let first = Doors::open(dir.path(), listen).await.expect("the stale socket is replaced");
    assert!(matches!(Doors::open(dir.path(), listen).await, Err(DoorError::Locked { .. })));
    assert!(UnixStream::connect(dir.path().join(SOCKET)).is_ok(), "the first one still answers");
    drop(first);
    let other = tempfile::tempdir().unwrap();
    let _somebody = std::os::unix::net::UnixListener::bind(other.path().join(SOCKET)).unwrap();
    assert!(matches!(Doors::open(other.path(), listen).await, Err(DoorError::Answered { .. })));
}

#[test]
fn ten_thousand_watches_opened_and_closed_leave_nothing() {
    if std::env::var_os("NEXTEST_EXECUTION_MODE").is_none_or(|mode| mode != "process-per-test") {
        println!("skipped: the memory of this process is that of every test in it; cargo nextest gives each its own");
        return;
    }
    let served = Served::start();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let open_one = || {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        stream.write_all(b"GET /v1/node?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut byte = [0_u8; 1];
        stream.read_exact(&mut byte).unwrap();
    };
    (0..500).for_each(|_| open_one());
    let before = resident();
    (0..10_000).for_each(|_| open_one());
    let after = resident();
    assert!(after < before + (8 << 20), "{before} before, {after} after");
}

#[test]
fn an_address_that_holds_all_it_may_leaves_room_for_another() {
    let served = Served::start();
    served.board.set_check(Check::Loop, Ok(()));
    // They say nothing, and are not waited for longer than the head's time.
    let held: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(served.address).unwrap()).collect();
    let other = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    let from = nix::sys::socket::SockaddrIn::new(127, 0, 0, 2, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&other), &from).unwrap();
    let to = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, served.address.port());
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&other), &to).unwrap();
    let mut stream = TcpStream::from(other);
    stream.set_read_timeout(Some(HEAD_TIME_MAX / 2)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n").unwrap();
    let answer = read_all(&mut stream);
    assert_eq!(status(&answer), "200", "{answer:?}");
    drop(held);
}
