//! Asks nodes for their health where they say that they may be asked: a task a node, which does nothing else.
//!
//! An answer is a sign of life; what it says makes the node ready or not. No answer is nothing: how long that may last `loops::nodes` judges.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::contacts::Contacts;

/// Between two questions to a node: as often as a kubelet says that it lives.
const EVERY: Duration = Duration::from_secs(10);
/// An answer that takes longer is none.
const WITHIN: Duration = Duration::from_secs(5);
/// Questions that are under way together: sockets are bounded.
const TOGETHER_MAX: usize = 64;
/// Bytes of an answer: one line a check.
const ANSWER_MAX: usize = 16 * 1024;
/// One name is looked up at a time.
static LOOKUP: Semaphore = Semaphore::const_new(1);
/// Where a node says how it is.
const PATH: &str = "/readyz?verbose";

/// What a node has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The checks that fail; empty: it is ready.
    Failing(String),
    /// It is no daemonlet that answers, or nothing that could be read.
    Nothing,
}

/// Asks until it is dropped.
pub async fn run(contacts: Contacts) {
    let mut asked: BTreeMap<String, (String, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let turn = Arc::new(Semaphore::new(TOGETHER_MAX));
    loop {
        let wanted = contacts.addresses();
        asked.retain(|node, (address, task)| {
            let stays = wanted.get(node) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (node, address) in wanted {
            asked.entry(node).or_insert_with_key(|node| {
                let asks = ask_again(contacts.clone(), turn.clone(), node.clone(), address.clone());
                (address, tasks.spawn(asks))
            });
        }
        // Those that were ended are taken out of the set.
        while tasks.try_join_next().is_some() {}
        contacts.moved().await;
    }
}

async fn ask_again(contacts: Contacts, turn: Arc<Semaphore>, node: String, address: String) {
    loop {
        let answer = {
            let Ok(_turn) = turn.acquire().await else { return };
            tokio::time::timeout(WITHIN, ask(&address)).await
        };
        match answer {
            Ok(Ok(Answer::Failing(failing))) => contacts.heard(&node, &failing),
            Ok(Ok(Answer::Nothing)) => tracing::debug!(node, address, "no answer that says anything"),
            Ok(Err(error)) => tracing::debug!(node, address, %error, "no answer"),
            Err(_) => tracing::debug!(node, address, "no answer in time"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(address: &str) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(&places(address).await?[..]).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(PATH)
        .header(header::HOST, address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await?.to_bytes();
        Ok(read(status, &String::from_utf8_lossy(&body)))
    };
    // It has to be driven while the answer is waited for, which fails by itself when it ends too early.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => Ok(Answer::Nothing),
    }
}

/// The address itself, or what its name says. A lookup holds a thread until the resolver answers, whatever time has passed here, and the store is
/// read by the same few threads: whoever advertises names that nobody answers for keeps waiting other names and nothing else.
async fn places(address: &str) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    if let Ok(place) = address.parse() {
        return Ok(vec![place]);
    }
    let turn = LOOKUP.acquire().await?;
    let address = address.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        address.to_socket_addrs().map(Iterator::collect)
    });
    Ok(found.await??)
}

/// Only what a daemonlet says is believed, and passed on: the address is the node's own word.
fn read(status: StatusCode, body: &str) -> Answer {
    let failing = body.lines().filter_map(|line| line.strip_prefix("[-]"));
    let failing: Vec<String> = failing.map(|line| line.replacen(" failed: ", ": ", 1)).collect();
    let checks = body.lines().any(|line| line.starts_with("[+]")) || !failing.is_empty();
    match status {
        StatusCode::OK if checks => Answer::Failing(String::new()),
        StatusCode::INTERNAL_SERVER_ERROR if !failing.is_empty() => Answer::Failing(failing.join("; ")),
        _ => Answer::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_says_which_checks_fail_and_others_say_nothing() {
        let failing = |text: &str| Answer::Failing(text.into());
        assert_eq!(read(StatusCode::OK, "[+]loop ok\n[+]cni ok\nreadyz check passed\n"), failing(""));
        let body = "[+]loop ok\n[-]containerd failed: not answering\n[-]cni failed: no plugin\n";
        assert_eq!(read(StatusCode::INTERNAL_SERVER_ERROR, body), failing("containerd: not answering; cni: no plugin"));
        assert_eq!(read(StatusCode::OK, "<html>hello</html>"), Answer::Nothing);
        assert_eq!(read(StatusCode::NOT_FOUND, body), Answer::Nothing);
    }

    #[tokio::test]
    async fn a_node_is_asked_where_it_says_and_what_never_ends_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = async {
            let good = || "[+]loop ok\n".to_owned();
            for body in [good(), "x".repeat(ANSWER_MAX + 1), good()] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /readyz?verbose HTTP/1.1\r\n"));
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        };
        let asker = async {
            assert_eq!(ask(&address).await.unwrap(), Answer::Failing(String::new()));
            let named = address.replace("127.0.0.1", "localhost");
            // While a name hangs, names wait and addresses do not.
            let hangs = LOOKUP.acquire().await.unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(50), ask(&named)).await.is_err());
            assert!(ask(&address).await.is_err());
            drop(hangs);
            assert_eq!(ask(&named).await.unwrap(), Answer::Failing(String::new()));
        };
        tokio::join!(node, asker);
    }
}
