use proptest::prelude::*;

use super::*;

fn basic(key: &str) -> Credential {
    Credential { key: key.to_owned(), login: Login::Basic { user: "u".to_owned(), password: Secret::new("p") } }
}

#[track_caller]
fn check(key: &str, host: &str, path: &str, expected: bool) {
    assert_eq!(basic(key).matches(host, path), expected, "{key} for {host}/{path}");
}

#[test]
fn a_key_matches_host_port_and_a_prefix_of_the_path() {
    check("r.example", "r.example", "a/b", true);
    check("https://r.example", "r.example", "a/b", true);
    check("https://index.docker.io/v1/", "index.docker.io", "library/x", true);
    check("r.example/v2/", "r.example", "x", true);
    check("r.example:5000", "r.example:5000", "x", true);
    check("r.example", "r.example:5000", "x", false);
    check("r.example:5000", "r.example", "x", false);
    check("r.example/team", "r.example", "team/x", true);
    check("r.example/team", "r.example", "other/x", false);
    check("r.example/v2/team", "r.example", "team/x", true);
    check("R.Example", "r.example", "x", true);
    check("[::1]:5000", "[::1]:5000", "x", true);
    check("[::1]", "[::1]", "x", true);
}

#[test]
fn a_wildcard_matches_within_a_label_and_never_over_a_dot() {
    check("*.example", "r.example", "x", true);
    check("*.example", "a.r.example", "x", false);
    check("*.*.example", "a.r.example", "x", true);
    check("pre*suf.example", "pre-and-suf.example", "x", true);
    check("r?.example", "r1.example", "x", true);
    check("r?.example", "r.example", "x", false);
    check("*", "example", "x", true);
    check("*.example:*", "r.example:5000", "x", false);
    check("*.example/team", "r.example", "team/x", true);
}

#[test]
fn the_longest_path_comes_first_and_a_wildcard_last() {
    let entries = ["*.example", "r.example", "r.example/team/deep", "r.example/team", "other"].map(basic);
    let found = matching(&entries, &["r.example".to_owned()], "team/deep/x");
    let keys: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["r.example/team/deep", "r.example/team", "r.example", "*.example"]);
}

#[test]
fn every_form_of_an_entry_is_read() {
    let text = br#"{"auths": {
        "a": {"auth": "dXNlcjpwYTpzcw=="}, "b": {"auth": "dXNlcjpwYTpzcw"}, "c": {"username": "user", "password": "pa:ss"},
        "d": {"identitytoken": "idt", "auth": "dXNlcjpwYTpzcw=="}, "e": {"registrytoken": "rt"}, "f": {}, "g": {"auth": ""}
    }}"#;
    let entries = Credential::from_docker_config(text).unwrap();
    let user = Login::Basic { user: "user".to_owned(), password: Secret::new("pa:ss") };
    let logins: Vec<(&str, &Login)> = entries.iter().map(|e| (e.key.as_str(), &e.login)).collect();
    let (identity, bearer) = (Login::Identity(Secret::new("idt")), Login::Bearer(Secret::new("rt")));
    assert_eq!(logins, [("a", &user), ("b", &user), ("c", &user), ("d", &identity), ("e", &bearer)]);
}

#[test]
fn the_older_format_has_no_auths() {
    let entries = Credential::from_docker_config(br#"{"r.example": {"username": "u", "password": "p"}}"#).unwrap();
    assert_eq!(entries, [basic("r.example")]);
}

#[test]
fn what_is_broken_is_named_by_its_key_and_never_by_its_content() {
    for (text, place) in [
        (r#"{"auths": {"r.example": {"auth": "hunter2!"}}}"#, "auths.r.example"),
        (r#"{"auths": {"r.example": {"auth": 5, "password": "hunter2"}}}"#, "auths.r.example"),
        (r#"{"auths": {"r.example": "hunter2"}}"#, "auths.r.example"),
        (r#"{"auths": "hunter2"}"#, "auths"),
        ("{\n \"auths\": hunter2}", "line 2"),
        ("[\"hunter2\"]", "object"),
        (r#"{"auths": {"r.example": {"password": "hunter2"}}}"#, "without a username"),
    ] {
        let error = Credential::from_docker_config(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(place) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_broken_entry_of_the_node_s_file_leaves_the_others() {
    let file = AuthFile::parse(
        br#"{"auths": {"bad": {"auth": "!"}, "good": {"username": "u", "password": "p"}},
             "credHelpers": {"https://h.example": "ecr", "x": "../evil"}, "credsStore": "pass", "HttpHeaders": {}}"#,
    )
    .unwrap();
    assert_eq!(file.entries, [basic("good")]);
    assert_eq!(file.helpers, BTreeMap::from([("h.example".to_owned(), "ecr".to_owned())]));
    assert_eq!(file.store.as_deref(), Some("pass"));
    assert_eq!(file.problems.len(), 2, "{:?}", file.problems);
}

#[test]
fn a_missing_or_huge_file_is_a_problem_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(AuthFile::read(&path).problems[0].contains("config.json"));
    std::fs::write(&path, " ".repeat(2 << 20)).unwrap();
    assert!(AuthFile::read(&path).problems[0].contains("larger"));
}

/// Found by mutation: brackets as general JSON values held sixty times their size, and keys of any length stood in the message.
#[test]
fn what_is_not_asked_for_is_not_held_nor_repeated() {
    let brackets = format!(
        "{{\"auths\": {{\"r\": {{\"auth\": [{}1]}}}}, \"x\": [{}]}}",
        "[],".repeat(1_000),
        "[1],".repeat(9) + "2"
    );
    let error = Credential::from_docker_config(brackets.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "auths.r: expected strings");
    let key = format!("{{\"auths\": {{\"{}\": 5}}}}", "k\\n".repeat(10_000));
    let error = Credential::from_docker_config(key.as_bytes()).unwrap_err().to_string();
    assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    let many: Vec<String> = (0..3_000).map(|n| format!("\"r{n}\": {{\"registrytoken\": \"t\"}}")).collect();
    let file = AuthFile::parse(format!("{{\"auths\": {{{}}}}}", many.join(",")).as_bytes()).unwrap();
    assert_eq!((file.entries.len(), file.problems.len()), (ENTRIES_MAX, 1));
}

#[test]
fn no_debug_output_shows_a_secret() {
    let file = AuthFile::parse(br#"{"auths": {"a": {"username": "u", "password": "hunter2"}}}"#).unwrap();
    assert!(!format!("{file:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "\\PC*") {
        let _ = Credential::from_docker_config(text.as_bytes());
        let _ = AuthFile::parse(text.as_bytes());
    }

    #[test]
    fn a_host_always_matches_itself_and_no_key_breaks_the_match(
        key in "[a-z*?.:/\\[\\]]{0,20}", host in "[a-z][a-z0-9-]{0,8}(\\.[a-z]{1,5}){0,3}(:[0-9]{1,5})?", path in "[a-z]{1,5}(/[a-z]{1,5})?",
    ) {
        let _ = basic(&key).matches(&host, &path);
        prop_assert!(basic(&host).matches(&host, &path));
    }
}
