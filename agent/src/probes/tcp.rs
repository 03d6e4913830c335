//! Whether somebody accepts a connection; also how the other handlers connect. Driven by `handlers`, which bounds the time.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::handlers::{Answer, Host};
use crate::registry::Names;

pub async fn connects(host: &Host, port: u16) -> Answer {
    match connect(host, port).await {
        Ok(_closed_at_once) => Answer::Success,
        Err(why) => Answer::Failure(why),
    }
}

/// Err in the words of Kubernetes' events: `dial tcp 10.88.0.3:80: connect: connection refused`.
pub async fn connect(host: &Host, port: u16) -> Result<TcpStream, String> {
    let place = format!("{}:{port}", host.for_url());
    let addresses = match host {
        Host::Address(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => {
            Names::default().addresses(name, port).await.map_err(|why| format!("dial tcp: lookup {name}: {why}"))?
        }
    };
    TcpStream::connect(addresses.as_slice()).await.map_err(|why| format!("dial tcp {place}: connect: {}", plain(&why)))
}

/// Without the number that Rust adds.
fn plain(why: &io::Error) -> String {
    let text = why.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
    format!("{first}{}", letters.as_str())
}
