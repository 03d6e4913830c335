//! The node's packet rules for its pods: their packets leave with the node's address, and may be forwarded; none of them
//! reaches what listens on the node's loopback only.
//!
//! Driven by `cni` beside an ADD. One set of rules for the whole pod network instead of a chain per pod: the bridge
//! plugin's own (`ipMasq`) makes each ADD two to three times as long, and leaves its chains behind when a network
//! namespace died before its DEL. Rules go to the ends of their chains, so that another program's refusals come first; the
//! guard of the loopback goes first, so that nobody's permission comes before it. It is there because the plugin that maps
//! ports makes the bridge take packets to 127.0.0.0/8 (route_localnet; CVE-2020-8558).

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::cidr::Cidr;

/// iptables waits for its lock at most this long (seconds), and we for iptables.
const LOCK_WAIT_SECONDS: &str = "5";
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    #[error("{program} is not installed: pods can reach the node, but nothing beyond it; install iptables")]
    NoProgram { program: &'static str },
    #[error("{program} could not {what} the rule {rule:?}: {said}")]
    Failed { program: &'static str, what: &'static str, rule: String, said: String },
    #[error("cannot run {program}")]
    Run { program: &'static str, source: std::io::Error },
    #[error("{program} did not answer within {} s", TIMEOUT.as_secs())]
    Slow { program: &'static str },
}

/// A rule of one chain.
struct Rule {
    program: &'static str,
    /// Where it goes: -A, the chain's end, or -I, its beginning.
    add: &'static str,
    /// Table, chain and matches.
    words: Vec<String>,
}

/// Adds the rules that are not there.
pub async fn ensure(bridge: &str, cidrs: &[Cidr]) -> Result<(), RuleError> {
    for Rule { program, add, words } in rules(bridge, cidrs) {
        if !run(program, "-C", &words).await?.0 {
            let (added, said) = run(program, add, &words).await?;
            if !added {
                return Err(RuleError::Failed { program, what: "add", rule: words.join(" "), said });
            }
        }
    }
    Ok(())
}

/// Removes the rules; Ok when they are not there, or nothing is installed that could have made them.
pub async fn remove(bridge: &str, cidrs: &[Cidr]) -> Result<(), RuleError> {
    for Rule { program, words, .. } in rules(bridge, cidrs) {
        match run(program, "-D", &words).await {
            Ok(_) | Err(RuleError::NoProgram { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn rules(bridge: &str, cidrs: &[Cidr]) -> Vec<Rule> {
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let comment = "-m comment --comment daemonlet";
    let mut rules = Vec::new();
    for cidr in cidrs {
        let program = if cidr.is_ipv4() { "iptables" } else { "ip6tables" };
        let mut rule = |add, text: String| rules.push(Rule { program, add, words: words(text) });
        rule("-A", format!("nat POSTROUTING -s {cidr} ! -o {bridge} {comment} -j MASQUERADE"));
        rule("-A", format!("filter FORWARD -i {bridge} {comment} -j ACCEPT"));
        // Answers, and what a port of the node leads here.
        let states = "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT";
        rule("-A", format!("filter FORWARD -o {bridge} {states} {comment} -j ACCEPT"));
        if cidr.is_ipv4() {
            let states = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT";
            rule("-I", format!("filter INPUT -i {bridge} -d 127.0.0.0/8 {states} {comment} -j DROP"));
        }
    }
    rules
}

/// All rules of the table `nat`, one a line.
pub async fn list_nat(program: &'static str) -> Result<String, RuleError> {
    let output = call(program, &["-w", LOCK_WAIT_SECONDS, "-t", "nat", "-S"]).await?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(RuleError::Failed { program, what: "list", rule: "nat".into(), said: said(&output) }),
    }
}

async fn run(program: &'static str, verb: &str, rule: &[String]) -> Result<(bool, String), RuleError> {
    let [table, rest @ ..] = rule else { return Ok((true, String::new())) };
    let mut words = vec!["-w", LOCK_WAIT_SECONDS, "-t", table, verb];
    words.extend(rest.iter().map(String::as_str));
    let output = call(program, &words).await?;
    Ok((output.status.success(), said(&output)))
}

async fn call(program: &'static str, words: &[&str]) -> Result<Output, RuleError> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, command.output()).await.map_err(|_| RuleError::Slow { program })?;
    output.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => RuleError::NoProgram { program },
        _ => RuleError::Run { program, source },
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")
}
