//! The listener of `--listen`: health for everybody who can reach it, `/pods` and `/metrics` for loopback only.
//!
//! On loopback the Host header must name loopback: a web page that a browser on this machine shows must not read the
//! node through a name that it had resolve to 127.0.0.1.

use std::net::IpAddr;

use hyper::header::{ACCEPT, HOST};
use hyper::{Request, Response, StatusCode};

use super::health;
use super::reply::{self, Reply};
use crate::board::Board;
use crate::{metrics, status};

/// Prometheus' older text format, as a kubelet answers.
const CLASSIC_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// OpenMetrics text, for who asks for it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `loopback`: the connection came in on a loopback address.
pub async fn answer<B>(board: &Board, loopback: bool, request: &Request<B>) -> Response<Reply> {
    if loopback && !host_is_loopback(request) {
        return reply::text(StatusCode::FORBIDDEN, "403 forbidden: the Host header must name a loopback address\n");
    }
    let path = request.uri().path();
    if let Some(response) = health::answer(path, request.uri().query(), &board.checks()) {
        return if reply::reads(request.method()) { response } else { reply::method_not_allowed("GET, HEAD") };
    }
    if !matches!(path, "/pods" | "/pods/" | "/metrics") {
        return reply::not_found();
    }
    if !loopback {
        return reply::text(StatusCode::FORBIDDEN, "403 forbidden: off loopback only health is served\n");
    }
    if !reply::reads(request.method()) {
        return reply::method_not_allowed("GET, HEAD");
    }
    // Right after a start: never less than what is known on disk.
    board.settled().await;
    match path {
        "/metrics" if takes_open_metrics(request) => reply::whole(StatusCode::OK, METRICS_TYPE, metrics::encode(board)),
        "/metrics" => reply::whole(StatusCode::OK, CLASSIC_TYPE, metrics::encode_classic(board)),
        _ => reply::whole(StatusCode::OK, reply::JSON, status::pod_list(board) + "\n"),
    }
}

fn takes_open_metrics<B>(request: &Request<B>) -> bool {
    let mut wanted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    wanted.any(|value| value.contains("application/openmetrics-text"))
}

fn host_is_loopback<B>(request: &Request<B>) -> bool {
    // An absolute request target overrides the header (RFC 9112, section 3.2.2): both must fit.
    let target = request.uri().host().is_none_or(is_loopback_name);
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    target && host.to_str().is_ok_and(|host| is_loopback_name(without_port(host)))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let asks =
            |accept: &str| takes_open_metrics(&Request::get("/metrics").header(ACCEPT, accept).body(()).unwrap());
        assert!(asks("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"));
        assert!(!asks("text/plain;version=0.0.4,*/*;q=0.1"));
        assert!(!takes_open_metrics(&Request::get("/metrics").body(()).unwrap()));
    }

    #[test]
    fn only_loopback_names_pass() {
        for good in ["localhost", "localhost:10348", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:10348", "LOCALHOST:1"]
        {
            assert!(is_loopback_name(without_port(good)), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:10348", "[::2]:1"]
        {
            assert!(!is_loopback_name(without_port(bad)), "{bad}");
        }
    }
}
