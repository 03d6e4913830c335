//! The HTTP door as any client meets it, asked with curl: who is let in, what is refused and how, watches, forms of answers, both versions of HTTP.

mod serving;

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use serving::Serving;

/// curl with the administrator's certificate.
struct Client<'a> {
    serving: &'a Serving,
    certificate: PathBuf,
    key: PathBuf,
}

/// An answer: its code, headers and body.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Code and reason of a Status.
    fn status(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(self.code)), "{self:?}");
        (self.code, status["reason"].as_str().expect("a reason").to_owned())
    }
}

impl Client<'_> {
    fn of(serving: &Serving) -> Client<'_> {
        let text = std::fs::read_to_string(serving.kubeconfig()).expect("it was written");
        let put = |field: &str, name: &str| {
            let line = text.lines().find(|line| line.contains(field)).expect(field);
            let data = line.split([' ', '"', ',']).rfind(|word| word.len() > 100).expect(field);
            let path = serving.dir.path().join(name);
            std::fs::write(&path, STANDARD.decode(data).expect("base64")).expect("written");
            path
        };
        let certificate = put("client-certificate-data", "client.crt");
        Client { serving, certificate, key: put("client-key-data", "client.key") }
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Answer {
        let url = format!("https://{}{path}", self.serving.address);
        let output = Command::new("curl")
            .args(["--silent", "--insecure", "--include", "--max-time", "30", "--globoff", "--header", "Expect:"])
            .args(arguments)
            .arg(url)
            .output()
            .expect("curl is installed");
        let text = String::from_utf8(output.stdout).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {text:?}"));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
        Answer { code, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// As the administrator.
    fn ask(&self, path: &str, arguments: &[&str]) -> Answer {
        let (certificate, key) = (self.certificate.display().to_string(), self.key.display().to_string());
        self.curl(path, &[&["--cert", &certificate, "--key", &key], arguments].concat())
    }

    fn post(&self, path: &str, media: &str, body: &[u8]) -> Answer {
        let file = self.serving.dir.path().join("body");
        std::fs::write(&file, body).expect("written");
        let file = format!("@{}", file.display());
        self.ask(path, &["--header", &format!("Content-Type: {media}"), "--data-binary", &file])
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn without_a_credential_there_is_health_and_version_and_nothing_else() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    assert_eq!((client.curl("/livez", &[]).code, client.curl("/livez", &[]).body.as_str()), (200, "ok"));
    let ready = client.curl("/readyz?verbose", &[]);
    assert_eq!(ready.code, 500);
    assert!(ready.body.contains("[+]ping ok\n[-]nodes failed: no node is here\nreadyz check failed"), "{ready:?}");
    assert_eq!(client.curl("/version", &[]).json()["minor"], "36");
    assert_eq!(client.curl("/api/v1/pods", &[]).status(), (403, "Forbidden".into()));
    assert_eq!(client.curl("/metrics", &[]).status(), (403, "Forbidden".into()));
    assert_eq!(client.curl(CONFIG_MAPS, &["--data", "{}"]).status(), (403, "Forbidden".into()));
    let wrong = ["--header", "Authorization: Bearer nobody"];
    assert_eq!(client.curl("/api/v1/pods", &wrong).status(), (401, "Unauthorized".into()));
    // Many at once, on one connection: more than probes have need of.
    let url = format!("https://{}/livez", serving.address);
    let busy = client.curl("/livez", &vec![url.as_str(); 200]);
    assert!(busy.body.contains("\"TooManyRequests\"") && busy.body.contains("retry-after: 1"), "{busy:?}");
}

#[test]
fn whoever_says_nothing_keeps_nobody_out() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    // More than there may be strangers, all of one address; both ends are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a bound");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard one anybody may");
    let silent: Vec<_> = (0..600).map(|_| std::net::TcpStream::connect(serving.address).expect("taken")).collect();
    assert_eq!(client.curl("/version", &[]).code, 200);
    assert_eq!(client.ask("/api/v1/namespaces", &[]).code, 200);
    drop(silent);
}

#[test]
fn what_is_not_offered_is_refused_as_kubernetes_does() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    assert_eq!(client.ask("/api/v1/cakes", &[]).status(), (404, "NotFound".into()));
    assert_eq!(client.ask("/apis/batch/v1", &[]).status(), (404, "NotFound".into()));
    assert_eq!(client.ask("/nothing", &[]).status(), (404, "NotFound".into()));
    assert_eq!(client.ask(CONFIG_MAPS, &["--request", "PUT"]).status(), (405, "MethodNotAllowed".into()));
    let protobuf = ["--header", "Accept: application/vnd.kubernetes.protobuf"];
    assert_eq!(client.ask(CONFIG_MAPS, &protobuf).status(), (406, "NotAcceptable".into()));
    assert_eq!(client.post(CONFIG_MAPS, "text/html", b"x").status(), (415, "UnsupportedMediaType".into()));
    assert_eq!(client.post(CONFIG_MAPS, "application/json", b"{").status(), (400, "BadRequest".into()));
    let large = vec![b' '; (3 << 20) + 1];
    assert_eq!(client.post(CONFIG_MAPS, "application/json", &large).status(), (413, "RequestEntityTooLarge".into()));
    let patch = ["--request", "PATCH", "--header", "Content-Type: application/json", "--data", "{}"];
    assert_eq!(client.ask(&format!("{CONFIG_MAPS}/a"), &patch).status(), (415, "UnsupportedMediaType".into()));
    let refused = client.ask("/api/v1/pods?watch=true&sendInitialEvents=true", &[]);
    assert_eq!(refused.status(), (422, "Invalid".into()));
    assert_eq!(client.ask("/api/v1/pods?watch=true&resourceVersion=99999999&timeoutSeconds=5", &[]).code / 100, 5);
}

#[test]
fn both_versions_of_http_are_spoken() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    assert!(client.ask("/api", &["--http2"]).head.starts_with("http/2 200"));
    assert!(client.ask("/api", &["--http1.1"]).head.starts_with("http/1.1 200"));
}

#[test]
fn a_watch_begins_with_what_there_is_says_so_and_ends_in_time() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    for name in ["a", "b"] {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
        assert_eq!(client.post(CONFIG_MAPS, "application/json", object.to_string().as_bytes()).code, 201);
    }
    let events = |query: &str| {
        let answer = client.ask(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&{query}"), &[]);
        assert_eq!(answer.code, 200, "{answer:?}");
        let of = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        answer.body.lines().map(of).collect::<Vec<_>>()
    };
    let words =
        |events: &[Value]| events.iter().map(|e| e["type"].as_str().expect("a word").to_owned()).collect::<Vec<_>>();
    let all = events("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    assert_eq!(words(&all)[..3], ["ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(all[2]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let list = client.ask(CONFIG_MAPS, &[]).json();
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    assert_eq!(words(&events(&format!("resourceVersion={revision}"))), Vec::<String>::new());
    let first = list["items"][0]["metadata"]["resourceVersion"].as_str().expect("a revision");
    let later = events(&format!("resourceVersion={first}"));
    assert_eq!((words(&later), &later[0]["object"]["metadata"]["name"]), (vec!["ADDED".to_owned()], &json!("b")));
}

#[test]
fn bodies_come_in_three_forms_and_answers_in_the_one_asked_for() {
    let serving = Serving::start();
    let client = Client::of(&serving);
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-yaml}\ndata: {a: b}\n";
    assert_eq!(client.post(CONFIG_MAPS, "application/yaml", yaml).json()["data"]["a"], "b");
    let envelope = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01p\x12\x06\x0a\x01a\x12\x01b";
    let made = client.post(CONFIG_MAPS, "application/vnd.kubernetes.protobuf", envelope);
    assert_eq!(
        (made.code, &made.json()["metadata"]["name"], &made.json()["data"]["a"]),
        (201, &json!("p"), &json!("b"))
    );
    let list = client.ask(CONFIG_MAPS, &["--header", "Accept: application/vnd.kubernetes.protobuf, */*"]).json();
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("ConfigMapList"), Some(2)));
    let partial = "Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial = client.ask(CONFIG_MAPS, &["--header", partial]).json();
    assert_eq!((&partial["kind"], &partial["items"][0]["data"]), (&json!("PartialObjectMetadataList"), &Value::Null));
    let table = "Accept: application/json;as=Table;g=meta.k8s.io;v=v1";
    let table = client.ask(&format!("{CONFIG_MAPS}?includeObject=None&limit=1"), &["--header", table]).json();
    assert_eq!((&table["kind"], table["rows"].as_array().map(Vec::len)), (&json!("Table"), Some(1)));
    assert!(table["metadata"]["continue"].is_string() && table["rows"][0].get("object").is_none(), "{table}");
    assert!(client.ask(&format!("{CONFIG_MAPS}/from-yaml?pretty=true"), &[]).body.starts_with("{\n  \"apiVersion\""));
    assert_eq!(client.ask(&format!("{CONFIG_MAPS}/from-yaml?pretty=false"), &[]).body.lines().count(), 1);
    let place = client.ask("/openapi/v3", &[]).json()["paths"]["apis/apps/v1"]["serverRelativeURL"].clone();
    let document = client.ask(place.as_str().expect("an address"), &[]);
    assert!(document.head.contains("immutable"), "{}", document.head);
    let tag = document.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let again = client.ask(place.as_str().expect("an address"), &["--header", &format!("If-None-Match: {tag}")]);
    assert_eq!((again.code, again.body.as_str()), (304, ""));
    let groups = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let groups = client.ask("/apis", &["--header", groups]);
    assert!(
        groups.head.contains("content-type: application/json;g=apidiscovery.k8s.io;v=v2;as=apigroupdiscoverylist"),
        "{}",
        groups.head
    );
}

/// Pods with what real ones have: as many bytes in the store, and as large a tree.
fn pods(count: usize) -> Vec<(String, Vec<u8>)> {
    let container = |name: &str| {
        json!({ "name": name, "image": "registry.example.org/team/agent:1.2.3", "args": vec!["--flag=value"; 12],
            "env": (0..16).map(|n| json!({ "name": format!("SETTING_{n}"), "value": "something" })).collect::<Vec<_>>(),
            "resources": { "limits": { "cpu": "1", "memory": "64Mi" }, "requests": { "cpu": "10m", "memory": "32Mi" } },
            "volumeMounts": (0..6).map(|n| json!({ "name": format!("v{n}"), "mountPath": format!("/mnt/{n}") })).collect::<Vec<_>>() })
    };
    let tolerations = ["not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"];
    let tolerations =
        tolerations.map(|key| json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists" }));
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "default", "labels": { "app": "agent" }, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "nodeName": "n", "containers": [container("main"), container("side")], "tolerations": tolerations },
        "status": { "phase": "Running" } });
    let mut entry = |n: usize| {
        let name = format!("agent-{n:05}");
        pod["metadata"]["name"] = name.as_str().into();
        (format!("/registry/core/pods/default/{name}"), pod.to_string().into_bytes())
    };
    (0..count).map(&mut entry).collect()
}

/// What this process has had of memory at most since the last `forget_peak`, and has now; in MB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let of = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).expect(field);
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("a number") / 1024
    };
    (of("VmHWM:"), of("VmRSS:"))
}

#[test]
fn a_list_of_thousands_is_passed_on_as_it_is_read() {
    const MANY: usize = 2000;
    /// As trees all of them take more than 200 MB. What the store keeps of what it has read is in it.
    const MORE_MAX: u64 = 30;
    let serving = Serving::with(pods(MANY));
    let client = Client::of(&serving);
    let place = |name: &str| serving.dir.path().join(name);
    let ask = |name: &str, path: &str, accept: &str| {
        // Five: what was had at most is from here on.
        std::fs::write("/proc/self/clear_refs", "5").expect("it is our own");
        let (before, file) = (memory().1, place(name).display().to_string());
        let header = format!("Accept: {accept}");
        let to_file = ["--header", &header, "--no-include", "--output", &file, "--dump-header", "-"];
        assert_eq!(client.ask(path, &to_file).code, 200, "{path}");
        let more = memory().0.saturating_sub(before);
        eprintln!("{path}: {more} MB more");
        assert!(more < MORE_MAX, "{path} took {more} MB more");
    };
    let json = "application/json";
    ask("whole", "/api/v1/pods", json);
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    ask("table", "/api/v1/namespaces/default/pods?limit=1500&pretty=true", table);
    ask("none", "/api/v1/pods?labelSelector=app%3Dother", json);
    // As trees they are in memory only now.
    let bytes = |name: &str| std::fs::read(place(name)).expect("it was written");
    let list = |name: &str| serde_json::from_slice::<Value>(&bytes(name)).expect("JSON");
    let whole = list("whole");
    let items = whole["items"].as_array().expect("items");
    assert_eq!((&whole["kind"], items.len(), &whole["metadata"]["continue"]), (&json!("PodList"), MANY, &Value::Null));
    assert!(items.windows(2).all(|two| two[0]["metadata"]["name"].as_str() < two[1]["metadata"]["name"].as_str()));
    assert!(whole["metadata"]["resourceVersion"].is_string() && items[0].get("kind").is_none());
    let rows = list("table");
    assert_eq!(
        (rows["rows"].as_array().map(Vec::len), &rows["metadata"]["remainingItemCount"]),
        (Some(1500), &json!(500))
    );
    assert_eq!(list("none")["items"], json!([]));
}
