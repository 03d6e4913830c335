//! Pods' surroundings made for real: namespaces, the Debian CNI plugins, cgroups, mounts. Needs root.
//!
//! Each test is a node of its own: a thread in a new network namespace (so that the machine's bridges and packet rules
//! stay as they are), directories in a temporary place, a cgroup root of its own; and each ends by proving that nothing is
//! left. Addresses are of 198.18.0.0/15.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod checks;
mod configurations;
mod cuts;
mod fixture;
mod names;
mod network;
mod ports;
#[path = "../support/mod.rs"]
mod support;
mod volumes;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use agent::seams::{CgroupParent, Leave, Reach, Sandboxes as _};
use nix::mount::{MntFlags, umount2};
use pod::observed::SandboxState;
use pod::spec::*;

use fixture::*;

#[test]
fn a_pod_gets_namespaces_files_and_an_address_and_gives_all_back() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("web-0"), template());
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
        sandboxes.set_up(&record, &template).await.unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Connected { ips: ips.clone() });
        assert_eq!(node.reserved(), [ips[0].to_string()]);

        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(sandbox.pod_ips, ips);
        assert_eq!(sandbox.namespaces.keys().collect::<Vec<_>>(), ["ipc", "network", "uts"]);
        assert_eq!(inside("uts", &sandbox.namespaces["uts"], &["hostname"]), "web-0");
        let links = inside("net", &sandbox.namespaces["network"], &["ip", "-o", "addr"]);
        assert!(links.contains("127.0.0.1/8") && links.contains(&format!("{}/15", ips[0])), "{links}");
        let node_side = std::net::TcpListener::bind("198.18.0.1:0").unwrap();
        let dial = format!("exec 3<>/dev/tcp/198.18.0.1/{}", node_side.local_addr().unwrap().port());
        inside("net", &sandbox.namespaces["network"], &["bash", "-c", &dial]);
        let hosts = fs::read_to_string(&sandbox.files["/etc/hosts"]).unwrap();
        assert!(hosts.ends_with(&format!("{}\tweb-0\n", ips[0])), "{hosts}");
        assert_eq!(fs::read_to_string(&sandbox.files["/etc/resolv.conf"]).unwrap(), "nameserver 198.18.0.53\n");
        assert_eq!(fs::read_to_string(&sandbox.files["/etc/hostname"]).unwrap(), "web-0\n");
        assert_eq!(sandboxes.list().await.unwrap(), std::slice::from_ref(&record.uid));

        // Again, by an agent that was started anew: nothing changes.
        let again = node.open();
        let number =
            fs::metadata(&sandbox.namespaces["network"]).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        again.set_up(&record, &template).await.unwrap();
        assert_eq!(again.connect(&record, &template).await.unwrap(), ips);
        let now =
            fs::metadata(&sandbox.namespaces["network"]).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        assert_eq!(number, now);
        assert_eq!(fs::read_to_string(&sandbox.files["/etc/hosts"]).unwrap(), hosts);

        again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(again.inspect(&record.uid, &template).await, SandboxState::Absent);
        assert_eq!(again.list().await.unwrap(), []);
        assert!(!node.pod_dir(&record).exists());
    });
}

#[test]
fn sysctls_hold_in_the_pods_own_namespaces_and_nowhere_else() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("tuned"), template());
        let nodes_own = || {
            ["net/ipv4/ip_unprivileged_port_start", "kernel/shm_rmid_forced"]
                .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap())
        };
        let before = nodes_own();
        let set = [
            ("kernel.shm_rmid_forced", "1"),
            ("net.ipv4.ip_local_port_range", "20000 20010"),
            ("net.ipv4.ip_unprivileged_port_start", "80"),
        ];
        template.spec.sysctls = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        sandboxes.set_up(&record, &template).await.unwrap();
        let of = sandboxes.describe(&record, &template).await.unwrap().namespaces;
        let range = ["cat", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/ip_unprivileged_port_start"];
        assert_eq!(
            inside("net", &of["network"], &range).split_whitespace().collect::<Vec<_>>(),
            ["20000", "20010", "80"]
        );
        assert_eq!(inside("ipc", &of["ipc"], &["cat", "/proc/sys/kernel/shm_rmid_forced"]), "1");
        assert_eq!(nodes_own(), before);
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();

        // A value that the kernel does not take: nothing runs without what was asked for.
        template.spec.sysctls = [("net.ipv4.ip_local_port_range".to_owned(), "9 1".to_owned())].into();
        let error = sandboxes.set_up(&record, &template).await.unwrap_err();
        assert!(error.reason == "CreatePodSandboxError" && error.message.contains("ip_local_port_range"), "{error}");
        assert!(!node.pod_dir(&record).join("ns").exists());
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn a_pod_on_the_hosts_network_shares_its_name_addresses_and_hosts_file() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("agent-node"), template());
        template.spec.host_network = true;
        sandboxes.set_up(&record, &template).await.unwrap();
        // This node has no address: none is made up.
        let ips: Vec<IpAddr> = Vec::new();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Connected { ips: ips.clone() });
        assert_eq!(sandboxes.connect(&record, &template).await.unwrap(), ips);
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(sandbox.namespaces.keys().collect::<Vec<_>>(), ["ipc"]);
        assert_eq!(sandbox.hostname, nix::unistd::gethostname().unwrap().into_string().unwrap());
        let hosts = fs::read_to_string(&sandbox.files["/etc/hosts"]).unwrap();
        assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"));
        assert!(hosts.contains("198.18.9.9 neighbour"));
        template.spec.host_ipc = true;
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(sandbox.files["/dev/shm"], Path::new("/dev/shm"));
        assert!(sandbox.namespaces.is_empty());
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn a_shared_process_namespace_is_held_by_one_process_in_the_pods_own_surroundings() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("shared"), template());
        template.spec.share_processes = true;
        let holders = || tests::process::with_command(&format!("hold {}", record.uid));
        sandboxes.set_up(&record, &template).await.unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        let of = sandboxes.describe(&record, &template).await.unwrap().namespaces;
        assert_eq!(of.keys().collect::<Vec<_>>(), ["ipc", "network", "pid", "uts"]);
        let [holder] = holders()[..] else { panic!("one process") };
        for (kind, file) in [("ipc", "ipc"), ("network", "net"), ("pid", "pid"), ("uts", "uts")] {
            let pinned = fs::metadata(&of[kind]).map(|it| std::os::unix::fs::MetadataExt::ino(&it)).unwrap();
            assert_eq!(holder.namespace(file), Some(format!("{file}:[{pinned}]")), "{kind}");
        }
        // An agent that was started anew finds it; what is interrupted is completed with the same one.
        let again = node.open();
        assert_eq!(again.inspect(&record.uid, &template).await, SandboxState::Made);
        again.set_up(&record, &template).await.unwrap();
        assert_eq!(holders(), [holder]);
        // Its end is noticed, and made good with new surroundings.
        holder.kill_9();
        holder.wait_gone(std::time::Duration::from_secs(10));
        let SandboxState::Broken { reason } = again.inspect(&record.uid, &template).await else { panic!("it is gone") };
        assert!(reason.contains("process namespace"), "{reason}");
        again.tear_down(&record.uid, Leave::Volumes).await.unwrap();
        again.set_up(&record, &template).await.unwrap();
        let [holder] = holders()[..] else { panic!("one process") };
        // A network namespace that is lost takes it along: it would be in one that nobody has.
        umount2(&node.pod_dir(&record).join("ns/net"), MntFlags::MNT_DETACH).unwrap();
        again.set_up(&record, &template).await.unwrap();
        assert!(!holder.alive() && holders().len() == 1);
        // Also where a stranger has unmounted everything, nothing of it stays.
        umount2(&node.pod_dir(&record), MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(again.inspect(&record.uid, &template).await, SandboxState::Broken { .. }));
        assert_eq!(again.list().await.unwrap(), std::slice::from_ref(&record.uid));
        again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(holders(), []);
        assert_eq!(again.list().await.unwrap(), []);

        // Also where all of its other namespaces are the node's.
        let mut hosts = template.clone();
        (hosts.spec.host_network, hosts.spec.host_ipc) = (true, true);
        again.set_up(&record, &hosts).await.unwrap();
        assert!(matches!(again.inspect(&record.uid, &hosts).await, SandboxState::Connected { .. }));
        let of = again.describe(&record, &hosts).await.unwrap().namespaces;
        assert!(of.keys().eq(["pid"]) && holders().len() == 1, "{of:?}");
        again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(holders(), []);

        // Of a pod with users of its own the namespace is theirs, and so is who holds it.
        let mut own = template.clone();
        own.spec.own_users = true;
        again.set_up(&record, &own).await.unwrap();
        assert_eq!(again.inspect(&record.uid, &own).await, SandboxState::Made);
        let sandbox = again.describe(&record, &own).await.unwrap();
        let of = sandbox.namespaces;
        assert_eq!(of.keys().collect::<Vec<_>>(), ["ipc", "network", "pid", "user", "uts"]);
        let [holder] = holders()[..] else { panic!("one process") };
        for (kind, file) in [("ipc", "ipc"), ("network", "net"), ("pid", "pid"), ("user", "user"), ("uts", "uts")] {
            let pinned = fs::metadata(&of[kind]).map(|it| std::os::unix::fs::MetadataExt::ino(&it)).unwrap();
            assert_eq!(holder.namespace(file), Some(format!("{file}:[{pinned}]")), "{kind}");
        }
        let first = sandbox.users.expect("it has its own").first;
        let nobody = format!("{0}\t{0}\t{0}\t{0}", first + 65534);
        assert_eq!([holder.status("Uid"), holder.status("CapEff")], [Some(nobody), Some("0000000000000000".into())]);
        assert_eq!(node.open().inspect(&record.uid, &own).await, SandboxState::Made, "an agent later");
        again.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(holders(), []);

        // Nothing that runs without what was asked for.
        let mut config = node.config();
        config.keeper = "/bin/true".into();
        let without = agent::sandbox::NodeSandboxes::open(config).unwrap();
        let error = without.set_up(&record, &template).await.unwrap_err();
        assert!(error.reason == "CreatePodSandboxError" && error.message.contains("does not come up"), "{error}");
        assert!(matches!(without.inspect(&record.uid, &template).await, SandboxState::Broken { .. }));
        without.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn what_a_pod_writes_to_its_files_is_limited() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("greedy"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        let files = sandboxes.describe(&record, &template).await.unwrap().files;
        for place in [files["/etc/hosts"].clone(), files["/dev/shm"].join("big")] {
            assert!(fs::write(&place, vec![b'x'; 70 << 20]).is_err());
            assert!(fs::metadata(&place).unwrap().len() <= 65 << 20);
            fs::OpenOptions::new().write(true).open(&place).unwrap().set_len(0).unwrap();
        }
        assert_eq!(fs::metadata(&files["/dev/shm"]).unwrap().permissions().mode() & 0o7777, 0o1777);
        // The node's own later writes still go through.
        sandboxes.connect(&record, &template).await.unwrap();
        assert!(fs::read_to_string(&files["/etc/hosts"]).unwrap().contains("\tgreedy\n"));
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn pods_lie_under_their_class_with_their_limits() {
    on_a_node(|node| async move {
        let (sandboxes, small, big, mut template) = (node.open(), pod("small"), pod("big"), template());
        template.spec.host_network = true;
        template.spec.containers[0].resources = Resources {
            cpu_request_milli: Some(100),
            cpu_limit_milli: Some(500),
            memory_request: Some(16 << 20),
            memory_limit: Some(32 << 20),
            ..Resources::default()
        };
        sandboxes.set_up(&small, &template).await.unwrap();
        let parent = format!("/{}/burstable/pod{}", node.cgroup_root, small.uid);
        let sandbox = sandboxes.describe(&small, &template).await.unwrap();
        assert_eq!(sandbox.cgroup, CgroupParent::Cgroupfs(parent.clone()));
        let read = |controller: &str, path: &str, file: &str| {
            let v1 = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(file);
            fs::read_to_string(v1).unwrap().trim().to_owned()
        };
        if !Path::new("/sys/fs/cgroup/cpu").exists() {
            println!("cgroup v1 is not mounted here: the values are looked at in the booted machine only");
        } else {
            assert_eq!(read("cpu", &parent, "cpu.shares"), "102");
            assert_eq!(read("cpu", &parent, "cpu.cfs_quota_us"), "50000");
            assert_eq!(read("memory", &parent, "memory.limit_in_bytes"), (32 << 20).to_string());
            assert_eq!(read("pids", &parent, "pids.max"), "5000");
            // What a running pod may have of processes is not what a resize is about.
            fs::write(format!("/sys/fs/cgroup/pids{parent}/pids.max"), "6000").unwrap();
            template.spec.containers[0].resources.memory_limit = Some(48 << 20);
            sandboxes.resize(&small.uid, &template, Reach::Exact).await.unwrap();
            assert_eq!(read("memory", &parent, "memory.limit_in_bytes"), (48 << 20).to_string());
            assert_eq!(read("pids", &parent, "pids.max"), "6000");
            template.spec.containers[0].resources.cpu_request_milli = Some(1000);
            sandboxes.set_up(&big, &template).await.unwrap();
            let class = format!("{}/burstable", node.cgroup_root);
            assert_eq!(read("cpu", &class, "cpu.shares"), "1126");
            // A restarted agent still knows the other's share.
            node.open().tear_down(&big.uid, Leave::Nothing).await.unwrap();
            assert_eq!(read("cpu", &class, "cpu.shares"), "102");
            assert_eq!(read("cpu", &format!("{}/besteffort", node.cgroup_root), "cpu.shares"), "2");
        }
        sandboxes.tear_down(&small.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn a_process_left_in_a_pods_cgroup_is_ended_with_it_also_at_a_second_try() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("left"), template());
        template.spec.host_network = true;
        sandboxes.set_up(&record, &template).await.unwrap();
        let place = Path::new("/sys/fs/cgroup/pids").join(&node.cgroup_root).join("besteffort");
        if !place.exists() {
            println!("cgroup v1 is not mounted here");
            return sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        }
        // As a runtime does it: a cgroup of the container's below the pod's. Deeper than one is removed, so that the first try fails.
        let container = place.join(format!("pod{}", record.uid)).join("container");
        let deep: Vec<_> = (0..20).map(|depth| container.join(vec!["x"; depth].join("/"))).collect();
        fs::create_dir_all(&deep[19]).unwrap();
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap_err();
        deep.iter().skip(1).rev().for_each(|dir| fs::remove_dir(dir).unwrap());

        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        fs::write(container.join("cgroup.procs"), child.id().to_string()).unwrap();
        // Its parent is to reap it, or it would stay a member.
        let reaping = std::thread::spawn(move || child.wait().unwrap());
        node.open().tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
        assert!(!reaping.join().unwrap().success(), "it ended by itself");
    });
}

#[test]
fn an_interrupted_set_up_is_broken_and_is_completed_or_removed() {
    on_a_node(|node| async move {
        let (sandboxes, record, template) = (node.open(), pod("half"), template());
        sandboxes.set_up(&record, &template).await.unwrap();
        let dir = node.pod_dir(&record);
        let hurts: [&dyn Fn(); 3] = [
            &|| fs::remove_file(dir.join("made")).unwrap(),
            &|| umount2(&dir.join("ns/uts"), MntFlags::MNT_DETACH).unwrap(),
            &|| fs::remove_dir(dir.join("shm")).unwrap(),
        ];
        for hurt in hurts {
            hurt();
            let state = sandboxes.inspect(&record.uid, &template).await;
            assert!(matches!(state, SandboxState::Broken { .. }), "{state:?}");
            sandboxes.set_up(&record, &template).await.unwrap();
            assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        }
        // With an address: the new namespace gets a new connection, the old address goes back.
        sandboxes.connect(&record, &template).await.unwrap();
        umount2(&dir.join("ns/net"), MntFlags::MNT_DETACH).unwrap();
        sandboxes.set_up(&record, &template).await.unwrap();
        assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Made);
        assert_eq!(node.reserved(), [""; 0]);
        umount2(&dir, MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Broken { .. }));
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn volumes_are_checked_and_removal_stays_within_the_pods_own() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("data"), template());
        template.spec.host_network = true;
        let host = |name: &str| node.dir.path().canonicalize().unwrap().join(name);
        let volume = |path: &Path, kind| Volume {
            name: "data".into(),
            source: VolumeSource::HostPath { path: path.to_str().unwrap().into(), kind },
        };
        template.spec.volumes = vec![volume(&host("bin"), HostPathKind::File)];
        let error = sandboxes.set_up(&record, &template).await.unwrap_err();
        assert_eq!(error.reason, "FailedMount");
        assert!(error.message.contains("hostPath type check failed"), "{error}");
        template.spec.volumes = vec![volume(&host("made/here"), HostPathKind::Unset)];
        sandboxes.set_up(&record, &template).await.unwrap();
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();
        assert_eq!(sandbox.volumes["data"], host("made/here"));

        // A container plants a link in its image's volume, and something is mounted there: neither is followed.
        let image_volume = node.dir.path().join(format!("state/pods/{}/volumes/image/main/0/~data", record.uid));
        fs::create_dir_all(image_volume.join("mounted")).unwrap();
        std::os::unix::fs::symlink(host("made"), image_volume.join("link")).unwrap();
        fs::write(host("made/here/kept"), "").unwrap();
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&host("made")), &image_volume.join("mounted"), None::<&str>, bind, None::<&str>)
            .unwrap();
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
        assert!(host("made/here/kept").exists());
        assert!(!image_volume.exists());
    });
}

/// The real runtime joins what was made, and leaves nothing that tear_down does not find.
#[test]
fn runc_runs_a_container_in_the_sandbox() {
    on_a_node(|node| async move {
        let (sandboxes, record, mut template) = (node.open(), pod("joined"), template());
        template.spec.containers[0].resources =
            Resources { memory_request: Some(64 << 20), memory_limit: Some(64 << 20), ..Resources::default() };
        sandboxes.set_up(&record, &template).await.unwrap();
        let ips = sandboxes.connect(&record, &template).await.unwrap();
        let sandbox = sandboxes.describe(&record, &template).await.unwrap();

        let bundle = node.dir.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        let script = "/bin/busybox hostname; /bin/busybox ip -o -4 addr show eth0; /bin/busybox cat /etc/hosts; \
            echo x >/dev/shm/x && echo shared; echo y >/etc/hosts || echo kept";
        let namespaces: Vec<_> = [("pid", None), ("mount", None)]
            .into_iter()
            .chain(sandbox.namespaces.iter().map(|(kind, path)| (kind.as_str(), Some(path))))
            .map(|(kind, path)| match path {
                Some(path) => serde_json::json!({"type": kind, "path": path}),
                None => serde_json::json!({"type": kind}),
            })
            .collect();
        let mut mounts = vec![
            serde_json::json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            serde_json::json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        ];
        mounts.extend(sandbox.files.iter().map(|(place, source)| {
            let access = if place.starts_with("/etc") { "ro" } else { "rw" };
            serde_json::json!({"destination": place, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
        }));
        let id = format!("daemonlet-sandbox-test-{}", record.uid);
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/busybox", "sh", "-c", script], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": mounts,
            "linux": {"namespaces": namespaces, "cgroupsPath": sandbox.cgroup.cgroups_path(&id)},
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let output = Command::new("runc")
            .arg("--root")
            .arg(node.dir.path().join("runc"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for expected in ["joined\n", &format!("inet {}/15", ips[0]), &format!("{}\tjoined", ips[0]), "shared", "kept"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        assert_eq!(fs::read_to_string(sandbox.files["/dev/shm"].join("x")).unwrap(), "x\n");
        sandboxes.tear_down(&record.uid, Leave::Nothing).await.unwrap();
    });
}

#[test]
fn a_uid_that_climbs_is_refused() {
    on_a_node(|node| async move {
        let (sandboxes, template) = (node.open(), template());
        for uid in ["../../etc", "", "a/b", "."] {
            let record = record(uid, "evil");
            assert!(sandboxes.set_up(&record, &template).await.is_err());
            assert!(sandboxes.tear_down(&record.uid, Leave::Nothing).await.is_err());
            assert_eq!(sandboxes.inspect(&record.uid, &template).await, SandboxState::Absent);
        }
    });
}
