//! Handlers against servers of the test's own on loopback.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pod::spec::{ContainerPort, HttpGet, Scheme};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use ::tests::grpc_health;

use super::*;
use crate::fake::{FakeExec, World};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a server was asked, request by request.
type Asked = Arc<Mutex<Vec<String>>>;

/// Answers each connection's request with what `answer` makes of it.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
    let told = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut bytes) = (stream.unwrap(), [0; 4096]);
            let mut request = String::new();
            // What is no GET is answered at once.
            while !request.contains("\r\n\r\n") && (request.is_empty() || request.starts_with("GET")) {
                match stream.read(&mut bytes) {
                    Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&bytes[..n])),
                    _ => break,
                }
            }
            told.lock().unwrap().push(request.clone());
            // The client may have had enough.
            let _ = stream.write_all(answer(&request).as_bytes());
        }
    });
    (address, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn container() -> Container {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: any}]}}";
    match pod::manifest::parse("t.yaml", text.as_bytes(), &Default::default()).documents.pop().map(|it| it.result) {
        Some(Ok(pod::manifest::Document::Workload(pod))) => pod.template.spec.containers[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn get(port: u16) -> HttpGet {
    HttpGet { path: "/".into(), port: PortReference::Number(port), host: None, scheme: Scheme::Http, headers: vec![] }
}

fn of(handler: Handler) -> Probe {
    Probe {
        handler,
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        success_threshold: 1,
        failure_threshold: 1,
        grace: None,
    }
}

async fn carried_out(handler: Handler) -> Result<Answer, NotDone> {
    let container = container();
    let target = Target { container_id: "c", container: &container, address: Some(LOCAL) };
    probe(&World::new(1), &of(handler), target).await
}

fn failure(why: &str) -> Result<Answer, NotDone> {
    Ok(Answer::Failure(why.into()))
}

#[tokio::test]
async fn status_from_200_to_399_is_success() {
    for (status, expected) in [
        ("200 OK", Ok(Answer::Success)),
        ("204 No Content", Ok(Answer::Success)),
        ("304 Not Modified", Ok(Answer::Warning("Probe terminated redirects, Response body: ".into()))),
        ("400 Bad Request", failure("HTTP probe failed with statuscode: 400")),
        ("500 Oh", failure("HTTP probe failed with statuscode: 500")),
    ] {
        let (address, _) = serve(move |_| answer(status, "", ""));
        assert_eq!(carried_out(Handler::HttpGet(get(address.port()))).await, expected, "{status}");
    }
}

#[tokio::test]
async fn request_is_the_kubelets() {
    let (address, asked) = serve(|_| answer("200 OK", "", ""));
    let path = "healthz?a=b".to_owned();
    carried_out(Handler::HttpGet(HttpGet { path, ..get(address.port()) })).await.unwrap();
    let headers = vec![
        ("Host".into(), "other.example".into()),
        ("accept".into(), String::new()),
        ("X-A".into(), "1".into()),
        ("X-A".into(), "2".into()),
    ];
    carried_out(Handler::HttpGet(HttpGet { headers, ..get(address.port()) })).await.unwrap();
    let asked = asked.lock().unwrap();
    let lines: Vec<String> = asked[0].lines().map(str::to_lowercase).collect();
    assert_eq!(lines[0], "get /healthz?a=b http/1.1");
    for line in [format!("host: {address}").as_str(), "user-agent: kube-probe/1.36", "accept: */*", "connection: close"]
    {
        assert!(lines.iter().any(|it| it == line), "{line}: {lines:?}");
    }
    let lines: Vec<String> = asked[1].lines().map(str::to_lowercase).collect();
    for line in ["host: other.example", "x-a: 1", "x-a: 2"] {
        assert!(lines.iter().any(|it| it == line), "{line}: {lines:?}");
    }
    assert!(!lines.iter().any(|it| it.starts_with("accept")), "{lines:?}");
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_and_no_further() {
    let (address, asked) = serve(|request| match request.split(' ').nth(1) {
        Some("/far") => answer("302 Found", "Location: http://127.0.0.2:1/\r\n", "gone"),
        Some("/loop") => answer("302 Found", "Location: /loop\r\n", ""),
        Some("/end") => answer("200 OK", "", ""),
        _ => answer("302 Found", "Location: /end\r\n", ""),
    });
    let ask = |path: &str| carried_out(Handler::HttpGet(HttpGet { path: path.into(), ..get(address.port()) }));
    assert_eq!(ask("/").await, Ok(Answer::Success));
    let remark = "Probe terminated redirects, Response body: gone".to_owned();
    assert_eq!(ask("/far").await, Ok(Answer::Warning(remark)));
    asked.lock().unwrap().clear();
    let endless = ask("/loop").await;
    assert!(matches!(&endless, Ok(Answer::Failure(why)) if why.ends_with("stopped after 10 redirects")), "{endless:?}");
    assert_eq!(asked.lock().unwrap().len(), 11);
}

#[tokio::test]
async fn endless_body_is_left_and_a_silent_server_is_late() {
    let (address, _) = serve(|_| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1 << 20)));
    assert_eq!(carried_out(Handler::HttpGet(get(address.port()))).await, Ok(Answer::Success));

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let container = container();
    let target = Target { container_id: "c", container: &container, address: Some(LOCAL) };
    let patient = Probe { timeout: Duration::from_secs(1), ..of(Handler::HttpGet(get(port))) };
    let begun = Instant::now();
    let late = probe(&World::new(1), &patient, target).await;
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(late, failure(&format!("Get {url:?}: no answer within 1s (timeoutSeconds)")));
    assert!(begun.elapsed() < Duration::from_secs(4));
    // The connection is closed, not leaked.
    let reading = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = silent.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    reading.await.unwrap();
}

#[tokio::test]
async fn nobody_listening_is_a_failure_in_kubernetes_words() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    let http = format!("Get \"http://127.0.0.1:{port}/\": {refused}");
    assert_eq!(carried_out(Handler::HttpGet(get(port))).await, failure(&http));
    let tcp = Handler::TcpSocket { host: None, port: PortReference::Number(port) };
    assert_eq!(carried_out(tcp).await, failure(&refused));
    let grpc = carried_out(Handler::Grpc { port, service: String::new() }).await;
    assert!(matches!(&grpc, Ok(Answer::Failure(why)) if why.contains("failed to connect")), "{grpc:?}");
}

#[tokio::test]
async fn grpc_server_must_say_that_it_serves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let says = grpc_health::Answer::default();
    grpc_health::serve(listener, says.clone());
    let ask = |answer: u32| {
        says.store(answer, std::sync::atomic::Ordering::Relaxed);
        carried_out(Handler::Grpc { port, service: "a".into() })
    };
    assert_eq!(ask(grpc_health::SERVING).await, Ok(Answer::Success));
    let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(ask(grpc_health::NOT_SERVING).await, failure(unhealthy));
    let foreign = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)";
    assert_eq!(ask(grpc_health::UNIMPLEMENTED).await, failure(foreign));
}

#[tokio::test]
async fn ports_have_names_and_hosts_may_be_others() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut container = container();
    container.ports =
        vec![ContainerPort { name: Some("web".into()), port, protocol: "TCP".into(), host_port: None, host_ip: None }];
    let world = World::new(1);
    let ask = |name: &str, host: Option<&str>, address| {
        let handler = Handler::TcpSocket { host: host.map(str::to_owned), port: PortReference::Name(name.to_owned()) };
        let (world, container) = (&world, &container);
        async move { probe(world, &of(handler), Target { container_id: "c", container, address }).await }
    };
    assert_eq!(ask("web", None, Some(LOCAL)).await, Ok(Answer::Success));
    assert_eq!(ask("web", Some("127.0.0.1"), None).await, Ok(Answer::Success));
    assert!(ask("web", None, None).await.is_err());
    assert!(ask("other", None, Some(LOCAL)).await.unwrap_err().0.contains("no port of the name other"));
}

/// A server that answers everything with 200 over TLS.
fn serve_tls() -> u16 {
    let authority = ::tests::authority::Authority::new().server(&["elsewhere.example"]);
    let certificate = CertificateDer::from_pem_slice(authority.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(authority.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut bytes = [0; 4096];
            if stream.read(&mut bytes).is_ok() {
                let _ = stream.write_all(answer("200 OK", "", "").as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    port
}

#[tokio::test]
async fn certificates_are_not_verified() {
    let https = HttpGet { scheme: Scheme::Https, ..get(serve_tls()) };
    assert_eq!(carried_out(Handler::HttpGet(https)).await, Ok(Answer::Success));
}

#[tokio::test]
async fn https_hook_is_content_with_http_and_takes_the_secret_back() {
    let (address, asked) = serve(|request| match request.starts_with("GET") {
        true => answer("500 Oh", "", ""),
        false => answer("400 Bad Request", "", ""),
    });
    let headers = vec![("Authorization".into(), "Bearer secret".into())];
    let https = HttpGet { scheme: Scheme::Https, headers, ..get(address.port()) };
    let container = container();
    let target = Target { container_id: "c", container: &container, address: Some(LOCAL) };
    let world = World::new(1);
    assert_eq!(hook(&world, &Handler::HttpGet(https.clone()), target).await, Ok(Answer::Success));
    let plain = asked.lock().unwrap().last().unwrap().to_lowercase();
    assert!(plain.starts_with("get / http/1.1") && !plain.contains("secret"), "{plain}");
    assert!(plain.contains("user-agent: kube-lifecycle/"), "{plain}");
    let probed = carried_out(Handler::HttpGet(https)).await;
    assert!(matches!(&probed, Ok(Answer::Failure(why)) if why.contains("HTTP response to HTTPS client")), "{probed:?}");
}

#[tokio::test]
async fn command_fails_with_what_it_said_within_a_bound() {
    let (world, container) = (World::new(1), container());
    world.run_container("c");
    let scripted = |exit_code, output: &str, hangs| FakeExec { exit_code, output: output.into(), hangs };
    world.state().execs.insert("chatty".into(), scripted(1, &"x".repeat(100_000), false));
    world.state().execs.insert("mute".into(), scripted(3, "", false));
    world.state().execs.insert("hung one".into(), scripted(0, "", true));
    let ask = |words: &str| {
        let handler = Handler::Exec(words.split(' ').map(str::to_owned).collect());
        let (world, container) = (&world, &container);
        let probe_ = Probe { timeout: Duration::from_secs(1), ..of(handler) };
        async move { probe(world, &probe_, Target { container_id: "c", container, address: None }).await }
    };
    assert_eq!(ask("fine").await, Ok(Answer::Success));
    assert!(matches!(ask("chatty").await, Ok(Answer::Failure(said)) if said.len() == SAID_BYTES_MAX));
    assert_eq!(ask("mute").await, failure("the command exited with code 3 and said nothing"));
    assert_eq!(ask("hung one").await, failure("command \"hung one\" timed out after 1s"));
    world.state().containers.clear();
    assert!(ask("fine").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_start_hangs_has_failed_and_one_whose_runtime_is_away_has_not() {
    let (world, container) = (World::new(1), container());
    world.run_container("c");
    world.state().hung_starts.insert("stuck".into());
    let probe_ = Probe { timeout: Duration::from_secs(3), ..of(Handler::Exec(vec!["stuck".into()])) };
    let target = Target { container_id: "c", container: &container, address: None };
    let begun = tokio::time::Instant::now();
    assert_eq!(probe(&world, &probe_, target).await, failure("command \"stuck\" timed out after 3s"));
    // To which the machine in memory adds milliseconds.
    let after = begun.elapsed().saturating_sub(Duration::from_secs(3) + START_ROOM);
    assert!(begun.elapsed() >= Duration::from_secs(3) + START_ROOM && after < Duration::from_secs(1), "{after:?}");
    world.state().containers.clear();
    assert!(probe(&world, &probe_, target).await.is_err());
}
