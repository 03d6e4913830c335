//! The loading of the profile against a made-up kernel and parser. What the profile forbids is proved on the booted
//! machine (tests/machine).

use super::*;

/// A directory like /sys, and a parser in it that notes how it was run and does `then`.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new(enabled: &str, profiles: &str) -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap() };
        for (name, text) in
            [("module/apparmor/parameters/enabled", enabled), ("kernel/security/apparmor/profiles", profiles)]
        {
            let path = node.dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        node
    }

    fn parser(&self, then: &str) -> PathBuf {
        let path = self.dir.path().join("parser");
        let dir = self.dir.path().display();
        let script = format!("#!/bin/sh\ncd {dir}\necho \"$*\" >>runs\ncat >text\n{then}\n");
        // Written by another process: a descriptor of ours, inherited by what another test starts, would keep it from
        // being run.
        let mut writer = std::process::Command::new("sh");
        writer.args(["-c", "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"", "-"]).arg(script).arg(&path);
        assert!(writer.status().unwrap().success());
        path
    }

    fn profiles(&self, parsers: Vec<PathBuf>) -> Profiles {
        Profiles::below(self.dir.path(), parsers)
    }

    fn runs(&self) -> Vec<String> {
        let runs = fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }
}

/// What the kernel does with a profile.
fn load() -> String {
    let line = format!("{} (enforce)", name());
    format!("case $* in *--replace*) echo '{line}' >>kernel/security/apparmor/profiles ;; esac")
}

fn default_of(found: AppArmor) -> Result<String, String> {
    match found {
        AppArmor::On { default, .. } => default,
        AppArmor::Off => panic!("it is on"),
    }
}

#[tokio::test]
async fn without_apparmor_nothing_is_run() {
    for enabled in ["N\n", ""] {
        let node = Node::new(enabled, "");
        let profiles = node.profiles(vec![node.parser("")]);
        assert_eq!(profiles.ready(IsNeeded::Yes).await, AppArmor::Off);
        assert_eq!(profiles.look().await, Found::Off);
        assert_eq!(node.runs(), [""; 0]);
    }
}

#[tokio::test]
async fn the_profile_is_loaded_once_and_again_when_somebody_removed_it() {
    let node = Node::new("Y\n", "/usr/bin/man (enforce)\nodd name (x) (complain)\n");
    let profiles = node.profiles(vec!["/nonexistent/parser".into(), node.parser(&load())]);
    let not_needed = profiles.ready(IsNeeded::No).await;
    assert!(default_of(not_needed.clone()).is_err() && node.runs().is_empty());
    let AppArmor::On { loaded, .. } = not_needed else { panic!("it is on") };
    assert_eq!(loaded.into_iter().collect::<Vec<_>>(), ["/usr/bin/man", "odd name (x)"]);

    assert_eq!(profiles.look().await, Found::Loadable);
    for _ in 0..2 {
        assert_eq!(default_of(profiles.ready(IsNeeded::Yes).await).as_deref(), Ok(name()));
    }
    assert_eq!(node.runs(), ["--skip-cache --skip-kernel-load", "--skip-cache --replace"]);
    let given = fs::read_to_string(node.dir.path().join("text")).unwrap();
    assert!(given.starts_with(&format!("profile {} flags=", name())) && !given.contains('@'), "{given}");
    assert_eq!(profiles.look().await, Found::Loaded(name().to_owned()));

    fs::write(node.dir.path().join("kernel/security/apparmor/profiles"), "").unwrap();
    assert_eq!(default_of(profiles.ready(IsNeeded::Yes).await).as_deref(), Ok(name()));
    assert_eq!(node.runs().len(), 3);
}

#[tokio::test]
async fn a_parser_that_is_missing_or_fails_is_a_reason_and_no_failure() {
    let node = Node::new("Y\n", "");
    let missing = node.profiles(vec!["/nonexistent/parser".into()]);
    let why = default_of(missing.ready(IsNeeded::Yes).await).unwrap_err();
    assert!(why.contains("apt-get install apparmor"), "{why}");

    let fails =
        node.profiles(vec![node.parser("echo 'Access denied.\n You need policy admin privileges' >&2; exit 1")]);
    for _ in 0..2 {
        let why = default_of(fails.ready(IsNeeded::Yes).await).unwrap_err();
        assert!(why.contains("Access denied. You need policy admin privileges"), "{why}");
    }
    assert_eq!(node.runs().len(), 1, "it is not asked again for each container");
    assert!(matches!(fails.look().await, Found::Impossible(_)));

    fs::remove_file(node.dir.path().join("kernel/security/apparmor/profiles")).unwrap();
    let why = default_of(fails.ready(IsNeeded::Yes).await).unwrap_err();
    assert!(why.contains("securityfs"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_parser_that_hangs_is_given_up() {
    let node = Node::new("Y\n", "");
    // The time is the test's: it jumps to the deadline as soon as nothing but the parser is waited for.
    let hangs = node.profiles(vec![node.parser("exec sleep 600")]);
    let why = default_of(hangs.ready(IsNeeded::Yes).await).unwrap_err();
    assert!(why.contains("no end within 15 s"), "{why}");
}

/// Where AppArmor's own parser is installed it accepts the text, whatever the kernel has.
#[tokio::test]
async fn the_parser_understands_the_profile() {
    let parser = std::env::var_os("APPARMOR_PARSER").map(PathBuf::from);
    let installed = parser.into_iter().chain(PARSERS.iter().map(PathBuf::from)).find(|path| path.is_file());
    let Some(parser) = installed else {
        eprintln!("skip: apparmor_parser is not installed here; the booted machine has it");
        return;
    };
    assert_eq!(parse(&parser, &["--skip-cache", "--skip-kernel-load"]).await, Ok(()));
}
