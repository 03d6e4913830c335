//! `doctor`: what on this node would keep daemons from running, line by line.
//!
//! Driven by the command line, with or without an agent. Each line is a probe, which looks at the machine and changes
//! nothing, and a judge, a pure function of what was found; a test shows each judge failing.

mod advisories;
mod cgroups;
mod clock;
mod containers;
mod control;
mod directories;
mod limits;
mod machine;
mod neighbours;
mod networks;
mod node;
mod records;
mod registries;
mod runtimes;
mod shared;
mod shutdown;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Cidr, Config, ControlUrl, RuntimeClass};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Some daemons, or some of what they ask for, may suffer.
    Warn,
    /// Daemons do not run, or not for long.
    Fail,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub name: String,
    pub verdict: Verdict,
    /// What is so.
    pub found: String,
    /// What to do; empty where nothing needs doing.
    pub fix: String,
}

impl Line {
    fn ok(name: &str, found: impl Into<String>) -> Line {
        Line { name: name.into(), verdict: Verdict::Ok, found: found.into(), fix: String::new() }
    }

    fn warn(name: &str, found: impl Into<String>, fix: impl Into<String>) -> Line {
        Line { name: name.into(), verdict: Verdict::Warn, found: found.into(), fix: fix.into() }
    }

    fn fail(name: &str, found: impl Into<String>, fix: impl Into<String>) -> Line {
        Line { name: name.into(), verdict: Verdict::Fail, found: found.into(), fix: fix.into() }
    }
}

/// Where to look: the agent's own places where it answers, else those of the configuration.
#[derive(Debug, Clone)]
pub struct Places {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub manifest_dir: PathBuf,
    pub image_dir: PathBuf,
    pub log_dir: PathBuf,
    pub containerd: PathBuf,
    pub containerd_namespace: String,
    pub cni_bin_dirs: Vec<PathBuf>,
    pub cni_conf_dir: PathBuf,
    pub pod_cidrs: Vec<Cidr>,
    pub runtime_classes: BTreeMap<String, RuntimeClass>,
    pub cgroup_root: String,
    pub listen: SocketAddr,
    pub registry_config: PathBuf,
    pub registry_auth: Option<PathBuf>,
    /// In seconds.
    pub shutdown_grace: u64,
    /// Of the configuration; an agent that answers says its own.
    pub control: Option<ControlUrl>,
    /// What the agent says of itself (v1 Node), or why it does not answer.
    pub agent: Result<serde_json::Value, String>,
}

impl Places {
    pub fn new(config: &Config, agent: Result<serde_json::Value, String>) -> Places {
        let told = |key: &str, configured: &PathBuf| {
            let node = agent.as_ref().ok();
            let text = node.and_then(|node| node.pointer(&format!("/daemonlet/{key}"))).and_then(|path| path.as_str());
            text.filter(|text| !text.is_empty()).map_or_else(|| configured.clone(), PathBuf::from)
        };
        let told_list = |key: &str| -> Vec<String> {
            let list = agent.as_ref().ok().and_then(|node| node.pointer(&format!("/daemonlet/{key}"))?.as_array());
            list.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        let or =
            |told: Vec<PathBuf>, configured: &Vec<PathBuf>| if told.is_empty() { configured.clone() } else { told };
        let cni_bin_dirs = told_list("cniBinDirs").into_iter().map(PathBuf::from).collect();
        let pod_cidrs: Vec<Cidr> = told_list("podCidrs").iter().filter_map(|text| text.parse().ok()).collect();
        let namespace = agent.as_ref().ok().and_then(|node| node.pointer("/daemonlet/containerdNamespace")?.as_str());
        let classes = agent.as_ref().ok().and_then(|node| node.pointer("/daemonlet/runtimeClasses")?.as_object());
        let runtime_classes = match classes {
            Some(told) => {
                let class = |text: &serde_json::Value| RuntimeClass::of(text.as_str().unwrap_or_default());
                told.iter().map(|(name, text)| (name.clone(), class(text))).collect()
            }
            None => config.runtime_classes.clone(),
        };
        let said =
            |key: &str| agent.as_ref().ok().and_then(|node| node.pointer(&format!("/daemonlet/{key}"))?.as_str());
        let registry_auth = match &agent {
            Ok(_) => said("registryAuth").map(PathBuf::from),
            Err(_) => config.registry_auth.clone(),
        };
        Places {
            run_dir: config.run_dir.clone(),
            state_dir: told("stateDir", &config.state_dir),
            manifest_dir: told("manifestDir", &config.manifest_dir),
            image_dir: told("imageDir", &config.image_dir),
            log_dir: told("logDir", &config.log_dir),
            containerd: told("containerd", &config.containerd),
            containerd_namespace: namespace.unwrap_or(&config.containerd_namespace).to_owned(),
            cni_bin_dirs: or(cni_bin_dirs, &config.cni_bin_dirs),
            cni_conf_dir: told("cniConfDir", &config.cni_conf_dir),
            pod_cidrs: if pod_cidrs.is_empty() { config.pod_cidrs.clone() } else { pod_cidrs },
            runtime_classes,
            cgroup_root: said("cgroupRoot").unwrap_or(&config.cgroup_root).to_owned(),
            listen: said("listen").and_then(|text| text.parse().ok()).unwrap_or(config.listen),
            registry_config: told("registryConfig", &config.registry_config),
            registry_auth,
            shutdown_grace: agent
                .as_ref()
                .ok()
                .and_then(|node| node.pointer("/daemonlet/shutdownGracePeriodSeconds")?.as_u64())
                .unwrap_or(config.shutdown.total.as_secs()),
            control: config.control.clone(),
            agent,
        }
    }
}

/// Whose places are looked at: the first thing to know about all other lines.
pub fn configuration(socket: &Path, file: Option<&Path>, agent: &Result<serde_json::Value, String>) -> Line {
    const NAME: &str = "configuration";
    let socket = socket.display();
    match (agent, file) {
        (Ok(_), _) => Line::ok(NAME, format!("that of the agent which answers on {socket}")),
        (Err(_), Some(file)) => Line::ok(NAME, format!("that of {}: no agent answers on {socket}", file.display())),
        (Err(_), None) => Line::warn(
            NAME,
            format!("the built-in defaults: no agent answers on {socket}"),
            "where the agent has other places, name its run directory with --run-dir D, or its file with --config FILE",
        ),
    }
}

/// What a person does whose agent does not answer. Says only what is so on this machine.
pub fn how_to_start(run_dir: &Path) -> String {
    units::how_to_start(run_dir, units::is_installed())
}

/// Whether pods with a network of their own can get one: the readiness check `cni`. Blocking, a few lookups.
pub fn cni_ready(conf_dir: &Path, bin_dirs: &[PathBuf]) -> Result<(), String> {
    networks::ready(&networks::probe(conf_dir, bin_dirs))
}

/// All lines, in the order of what depends on what. Blocking, a few seconds at most.
pub fn examine(places: &Places) -> Vec<Line> {
    let containerd = containers::probe_containerd(places);
    let pid = containerd.as_ref().ok().and_then(|look| look.pid);
    let networks = networks::probe(&places.cni_conf_dir, &places.cni_bin_dirs);
    let mut lines = vec![
        machine::judge_privileges(&machine::probe_privileges(pid)),
        limits::judge(&limits::probe(pid, &places.state_dir)),
        machine::judge_kernel(&machine::probe_kernel()),
        clock::judge(&clock::probe()),
        machine::judge_apparmor(&machine::probe_apparmor()),
        cgroups::judge(&cgroups::probe()),
        containers::judge_containerd(&containerd, places),
        containers::judge_snapshotter(&containerd),
        runtimes::judge_runc(&runtimes::probe_program(Path::new("runc"))),
        containers::judge_own_users(&containerd),
        networks::judge_plugins(&networks),
        networks::judge_configuration(&networks, &places.pod_cidrs),
        networks::judge_rules(&networks),
        networks::judge_forwarding(&networks, &places.pod_cidrs),
        node::judge_keeper(&node::probe_keeper(&places.run_dir), units::is_installed()),
        node::judge_agent(&places.agent, &how_to_start(&places.run_dir)),
    ];
    for (name, class) in &places.runtime_classes {
        lines.push(runtimes::judge(name, class, &runtimes::probe(class, pid)));
    }
    lines.extend(directories::lines(places));
    lines.push(records::judge(&records::probe(&places.state_dir)));
    lines.push(directories::judge_containerd(containerd.as_ref().ok().and_then(|look| look.root.as_deref())));
    lines.extend(registries::lines(&registries::probe(places)));
    lines.extend(control::probe(places).iter().flat_map(control::judge));
    lines.push(units::judge(&units::probe()));
    lines.push(shutdown::judge(&shutdown::probe(), places.shutdown_grace, places.agent.is_ok()));
    let neighbours =
        neighbours::probe(containerd.as_ref().map_or_else(|why| Err(why.clone()), |look| look.namespaces.clone()));
    lines.push(neighbours::judge_kubelet(&neighbours, &places.log_dir));
    lines.push(neighbours::judge_namespace(&neighbours, &places.containerd_namespace));
    let shared = shared::probe(places);
    lines.push(shared::judge_cgroups(&shared, &places.cgroup_root));
    lines.push(shared::judge_network(&shared, &places.cni_conf_dir));
    lines.push(shared::judge_port(&shared, places.listen));
    lines
}
