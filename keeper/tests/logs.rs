//! The keeper as a process, fed through real pipes: formats, faults, attacks.

#![expect(clippy::unwrap_used, reason = "a test's own code fails the test where something is not as it should be")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{BIN, Node, assert_counted, contents, wait};
use keeper::protocol::Limits;

#[test]
fn both_streams_reach_the_log_and_closing_leaves_only_the_log() {
    let node = Node::start(&[]);
    let container = node.open("web", "c1");
    container.say("hello\nwor");
    container.wait_lines(1);
    container.complain("oops\n");
    container.wait_lines(2);
    container.say("ld\nlast words");
    assert_eq!(container.wait_lines(3), ["hello", "oops", "world"]);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&container.log), mode(container.log.parent().unwrap())), (0o640, 0o755));
    assert_eq!(std::fs::read(&container.link).unwrap(), std::fs::read(&container.log).unwrap());
    assert_eq!(mode(&node.run_dir().join("logkeeper.sock")), 0o600);

    let closed = node.keeper.close("c1").unwrap();
    assert_eq!((closed.bytes, closed.lines, closed.lost), (27, 4, 0));
    let text = std::fs::read_to_string(&container.log).unwrap();
    assert!(text.ends_with(" stdout P last words\n") && text.contains(" stderr F oops\n"), "{text}");
    assert!(!node.run_dir().join("logs/c1").exists());
    assert_eq!(node.keeper.close("c1").unwrap().bytes, 0, "closing again is fine");

    node.keeper.forget("pods/ns_web_uid").unwrap();
    assert!(!container.log.exists() && std::fs::symlink_metadata(&container.link).is_err());
}

#[test]
fn a_deleted_pods_log_is_kept_aside_and_goes_by_itself_over_a_restart() {
    let mut node = Node::start(&[]);
    let container = node.open("web", "c1");
    container.say("last words\n");
    container.wait_lines(1);
    assert!(node.keeper.retire("pods/ns_web_uid", Duration::from_secs(2)).is_err(), "it is written");
    node.keeper.close("c1").unwrap();
    node.keeper.retire("pods/ns_web_uid", Duration::from_secs(2)).unwrap();
    let kept = node.log_dir().join("pods/.deleted/ns_web_uid");
    assert!(kept.join("main/0.log").exists() && !container.log.exists());
    assert!(std::fs::symlink_metadata(&container.link).is_err(), "collectors see it gone");
    node.kill();
    node.spawn();
    wait("the end of its time", || !kept.exists());
}

#[test]
fn a_killed_keeper_loses_doubles_and_tears_nothing() {
    let mut node = Node::start(&["--max-file-size", "300000", "--max-files", "100000"]);
    let container = node.open("web", "c1");
    let counter = container.count();
    for round in 0..30 {
        let before = node.keeper.status().unwrap().containers[0].bytes;
        wait("progress", || node.keeper.status().unwrap().containers[0].bytes > before);
        // Another moment of the loop each time.
        std::thread::sleep(Duration::from_micros(137 * round));
        node.kill();
        node.spawn();
    }
    let (count, longest) = counter.stop();
    assert_eq!(node.keeper.close("c1").unwrap().lost, 0);
    assert_counted(&container.lines(), count);
    println!("{count} lines over 30 kills, longest write {longest:?}");
}

#[test]
fn a_handover_keeps_every_line_and_the_old_keeper_ends_well() {
    let mut node = Node::start(&[]);
    node.keeper.limits(Limits { max_file_size: 100_000, max_files: 100_000, budget: 1 << 30 }).unwrap();
    let container = node.open("web", "c1");
    let counter = container.count();
    for _ in 0..10 {
        let before = node.keeper.status().unwrap().containers[0].bytes;
        wait("progress", || node.keeper.status().unwrap().containers[0].bytes > before);
        node.spawn();
        assert!(node.oldest_ends().success());
        assert_eq!(node.keeper.status().unwrap().pid, u64::from(node.pid()));
    }
    let (count, longest) = counter.stop();
    node.keeper.close("c1").unwrap();
    assert_counted(&container.lines(), count);
    println!("{count} lines over 10 handovers, longest write {longest:?}");
}

#[test]
fn a_held_partial_line_survives_a_kill() {
    let mut node = Node::start(&[]);
    let container = node.open("web", "c1");
    container.say("whole\nbegun ");
    container.wait_lines(1);
    node.kill();
    node.spawn();
    container.say("ended\n");
    assert_eq!(container.wait_lines(2), ["whole", "begun ended"]);
}

#[test]
fn sigterm_ends_the_keeper_well_and_its_successor_goes_on() {
    let mut node = Node::start(&[]);
    let container = node.open("web", "c1");
    container.say("one\n");
    container.wait_lines(1);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(node.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(node.oldest_ends().success());
    container.say("two\n");
    node.spawn();
    assert_eq!(container.wait_lines(2), ["one", "two"]);
}

#[test]
fn files_are_rotated_while_they_are_written_and_the_newest_are_kept() {
    let node = Node::start(&["--max-file-size", "20000", "--max-files", "3"]);
    let container = node.open("web", "c1");
    let counter = container.count();
    wait("rotation", || node.keeper.status().unwrap().containers[0].bytes > 500_000);
    let (count, _) = counter.stop();
    node.keeper.close("c1").unwrap();
    let files: Vec<_> = std::fs::read_dir(container.log.parent().unwrap()).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 20_000));
    let lines = container.lines();
    let numbers: Vec<u64> = lines.iter().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap between files");
    assert_eq!(numbers.last(), Some(&(count - 1)));
}

#[test]
fn the_budget_takes_old_files_first_and_says_so_in_the_log() {
    let node = Node::start(&["--max-file-size", "20000", "--max-files", "1000", "--budget", "200000"]);
    let ended = node.open("gone", "c0");
    ended.say("old\n");
    ended.wait_lines(1);
    node.keeper.close("c0").unwrap();
    let container = node.open("web", "c1");
    let counter = container.count();
    let used = || -> u64 {
        let dir = std::fs::read_dir(container.log.parent().unwrap()).unwrap();
        dir.filter_map(|entry| entry.unwrap().metadata().ok()).map(|meta| meta.len()).sum()
    };
    let mut most = 0;
    wait("budget", || {
        most = most.max(used());
        node.keeper.status().unwrap().containers[0].removed > 100_000
    });
    counter.stop();
    assert!(most <= 240_000, "{most} bytes with a budget of 200000");
    node.keeper.close("c1").unwrap();
    assert!(container.lines().iter().any(|line| line.contains("bytes of older log removed")));
    assert!(ended.log.exists(), "rotated files go before an ended container's log");
    assert!(node.keeper.status().unwrap().removed > 100_000);

    node.keeper.forget("pods/ns_web_uid").unwrap();
    let active = node.open("next", "c2");
    active.say(&format!("{}\n", "x".repeat(4050)));
    active.wait_lines(1);
    node.keeper.limits(Limits { max_file_size: 4096, max_files: 2, budget: 4096 }).unwrap();
    assert!(!ended.log.exists());
    assert!(std::fs::symlink_metadata(&ended.link).is_err(), "its link went with it");
    assert_eq!(active.lines().len(), 1);
}

#[test]
fn a_planted_link_pipe_or_second_name_gets_nothing() {
    let mut node = Node::start(&[]);
    let victim = node.dir.path().join("shadow");
    std::fs::write(&victim, "secret").unwrap();
    for (number, id) in ["c1", "c2", "c3"].iter().enumerate() {
        let dir = node.log_dir().join(format!("pods/ns_{id}_uid/main"));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("0.log");
        match number {
            0 => symlink(&victim, &log).unwrap(),
            1 => nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => std::fs::hard_link(&victim, &log).unwrap(),
        }
        let container = node.open(id, id);
        container.say("line\n");
        assert_eq!(container.wait_lines(1), ["line"]);
        let status = node.keeper.status().unwrap();
        assert_eq!(status.containers[number].refused, 1);
    }
    // While it is written, and behind the back of a dead keeper.
    let container = node.open("late", "c4");
    container.say("one\n");
    container.wait_lines(1);
    node.kill();
    std::fs::remove_file(&container.log).unwrap();
    symlink(&victim, &container.log).unwrap();
    node.spawn();
    container.say("two\n");
    wait("a file of ours", || std::fs::symlink_metadata(&container.log).is_ok_and(|meta| meta.is_file()));
    assert_eq!(container.wait_lines(1), ["two"]);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "secret");
    assert_eq!(victim.metadata().unwrap().nlink(), 2);
}

#[test]
fn a_planted_directory_link_is_not_followed_and_stops_no_daemon() {
    let node = Node::start(&[]);
    let outside = node.dir.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(node.log_dir().join("pods")).unwrap();
    symlink(&outside, node.log_dir().join("pods/ns_web_uid")).unwrap();
    let container = node.open("web", "c1");
    container.say("line\n");
    wait("a reason", || !node.keeper.status().unwrap().containers[0].failing.is_empty());
    std::fs::remove_file(node.log_dir().join("pods/ns_web_uid")).unwrap();
    assert_eq!(container.wait_lines(1), ["line"]);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_full_disk_blocks_no_daemon_for_long_and_the_loss_is_said() {
    // The log directory is a small tmpfs in the keeper's own mount namespace, which ends with it.
    let mut node = Node::prepare(&[]);
    let log = node.log_dir();
    std::fs::create_dir_all(&log).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=2m none {log} && head -c 1900000 /dev/zero > {log}/ballast && exec {BIN} --run-dir {run} --log-dir {log}",
        log = log.display(),
        run = node.run_dir().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    node.adopt(command);
    let keeper = node.keeper.clone();
    wait("the keeper", || keeper.status().is_ok());
    let target = keeper::client::StreamTarget {
        id: "c1".into(),
        log_path: "pods/a/b/0.log".into(),
        link: "containers/a.log".into(),
    };
    let pipes = keeper.open(&target).unwrap();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut pipe = std::fs::OpenOptions::new().read(true).write(true).open(&pipes.stdout).unwrap();
        let mut longest = Duration::ZERO;
        for number in 0..200_000 {
            let start = Instant::now();
            writeln!(pipe, "{number} {}", "x".repeat(40)).unwrap();
            longest = longest.max(start.elapsed());
        }
        (pipe, longest)
    });
    wait("the writer's end", || writer.is_finished());
    let (mut pipe, longest) = writer.join().unwrap();
    println!("longest write on a full disk: {longest:?}");
    assert!(longest < Duration::from_secs(10), "blocked for {longest:?}");
    let status = keeper.status().unwrap();
    assert!(status.containers[0].failing.contains("No space"), "{status:?}");
    let seen = std::path::PathBuf::from(format!("/proc/{}/root{}", node.pid(), log.display()));
    std::fs::remove_file(seen.join("ballast")).unwrap();
    std::io::Write::write_all(&mut pipe, b"after\n").unwrap();
    let file = seen.join("pods/a/b/0.log");
    wait("the last line", || contents(&file).last().is_some_and(|line| line == "after"));
    let lines = contents(&file);
    let lost = keeper.status().unwrap().containers[0].lost;
    let said: u64 = lines
        .iter()
        .filter_map(|line| line.strip_prefix("[daemonlet-logkeeper] "))
        .map(|said| said.strip_suffix(" bytes lost here: the log file could not be written").unwrap())
        .map(|bytes| bytes.parse::<u64>().unwrap())
        .sum();
    assert!(lost > 0 && said == lost, "{lost} bytes lost, {said} said");
    // Each whole line is either there or counted.
    let kept: u64 = lines.iter().filter(|line| !line.starts_with('[')).map(|line| line.len() as u64 + 1).sum();
    let written: u64 = (0..200_000u64).map(|n| n.to_string().len() as u64 + 42).sum::<u64>() + 6;
    assert_eq!(kept + lost, written);
}

#[test]
fn a_full_run_directory_stops_no_line() {
    // The run directory is a small tmpfs in a mount namespace of the keepers' own; a shell restarts a killed one in it.
    let mut node = Node::prepare(&[]);
    let run = node.run_dir();
    std::fs::create_dir_all(&run).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m none {run} && while [ ! -e {run}/stop ]; do {BIN} --run-dir {run} --log-dir {log} --max-file-size 2000000000 --budget 2000000000; done",
        run = run.display(),
        log = node.log_dir().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).stderr(Stdio::null());
    node.adopt(command);
    let seen = std::path::PathBuf::from(format!("/proc/{}/root{}", node.pid(), run.display()));
    node.keeper = keeper::client::Keeper::new(&seen);
    wait("the keeper", || node.keeper.status().is_ok());
    let container = node.open("web", "c1");
    std::process::Command::new("sh")
        .args(["-c", &format!("head -c 2000000 /dev/zero > {}/ballast", seen.display())])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // What goes through memory is not held until its line is whole: that is how it is told from what was spooled.
    let (begun, ended) = ("begun ", "ended\n");
    container.say(begun);
    wait("half a line through memory", || {
        std::fs::read_to_string(&container.log).is_ok_and(|text| text.ends_with(&format!(" stdout P {begun}\n")))
    });
    container.say(ended);
    let counter = container.count();
    wait("progress without spools", || node.keeper.status().unwrap().containers[0].bytes > 1_000_000);
    std::fs::remove_file(seen.join("ballast")).unwrap();
    let before = node.keeper.status().unwrap().containers[0].bytes;
    wait("progress with spools", || node.keeper.status().unwrap().containers[0].bytes > before + 1_000_000);
    let (count, _) = counter.stop();
    // Lines may be cut where they went through memory, but their bytes are all there, in order and once.
    let counted: u64 = (0..count).map(|n| n.to_string().len() as u64 + 2 + n % 97).sum();
    let written = counted + (begun.len() + ended.len()) as u64;
    std::fs::write(seen.join("stop"), "").unwrap();
    let closed = node.keeper.close("c1").unwrap();
    assert_eq!((closed.bytes, closed.lost), (written, 0));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(node.keeper.status().unwrap().pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(node.oldest_ends().success());
    let text = std::fs::read_to_string(&container.log).unwrap();
    let mut whole = String::new();
    for line in text.lines() {
        let (head, content) = line.split_at(40);
        whole += content;
        if head.ends_with(" F ") {
            whole.push('\n');
        }
    }
    let mut lines: Vec<String> = whole.lines().map(String::from).collect();
    assert_eq!(lines.remove(0), "begun ended");
    assert_counted(&lines, count);
}

#[test]
fn only_root_and_the_keepers_own_user_are_answered() {
    use std::os::unix::process::CommandExt;
    let node = Node::start(&[]);
    let socket = node.run_dir().join("logkeeper.sock");
    // Even with every door open on the way.
    for path in [node.dir.path(), &node.run_dir(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = |uid| {
        let script = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un($ARGV[0])) or die; \
                      syswrite(S, qq(status\\n)); shutdown(S, 1); sysread(S, $_, 1000); print";
        let mut perl = Command::new("perl");
        let output = perl.args(["-e", script]).arg(&socket).uid(uid).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(ask(0).starts_with("ok "));
    assert_eq!(ask(65_534), "");
}

#[test]
fn a_flood_does_not_keep_others_waiting() {
    let node = Node::start(&["--max-files", "2"]);
    let (flood, quiet) = (node.open("flood", "c1"), node.open("quiet", "c2"));
    let counter = flood.count();
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let start = Instant::now();
        quiet.say(&format!("{number}\n"));
        quiet.wait_lines(number + 1);
        slowest = slowest.max(start.elapsed());
    }
    let (count, _) = counter.stop();
    println!("a quiet container's line waited {slowest:?} at most beside {count} lines of a flood");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn the_limits_are_kept_by_a_restarted_keeper_and_bad_requests_change_nothing() {
    let mut node = Node::start(&[]);
    node.keeper.limits(Limits { max_file_size: 5000, max_files: 1000, budget: 1 << 30 }).unwrap();
    node.kill();
    node.spawn();
    let container = node.open("web", "c1");
    container.say(&format!("{}\n{}\n{}\n", "a".repeat(3000), "b".repeat(3000), "c".repeat(3000)));
    container.wait_lines(3);
    assert_eq!(std::fs::read_dir(container.log.parent().unwrap()).unwrap().count(), 3);
    assert!(node.keeper.limits(Limits { max_file_size: 1, max_files: 5, budget: 1 << 30 }).is_err());
    let error = node.keeper.forget("pods/ns_web_uid").unwrap_err().to_string();
    assert!(error.contains("close it first"), "{error}");

    use std::io::{Read, Write};
    for bad in ["open ../../etc", "nonsense", "open missing"] {
        let mut raw = std::os::unix::net::UnixStream::connect(node.run_dir().join("logkeeper.sock")).unwrap();
        writeln!(raw, "{bad}").unwrap();
        raw.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("err ") && answer.lines().count() == 1, "{bad}: {answer:?}");
    }
    let mut raw = std::os::unix::net::UnixStream::connect(node.run_dir().join("logkeeper.sock")).unwrap();
    let _ = raw.write_all(&[b'x'; 100_000]);
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer);
    assert!(answer.is_empty());
    assert_eq!(node.keeper.status().unwrap().containers.len(), 1);
}

#[test]
fn systemd_is_told_when_requests_are_answered() {
    use std::os::linux::net::SocketAddrExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let name = format!("daemonlet-test-{}", std::process::id());
    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    for (number, (socket, to)) in [
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
        (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
    ]
    .into_iter()
    .enumerate()
    {
        socket.set_read_timeout(Some(common::WAIT_MAX)).unwrap();
        let run = dir.path().join(format!("run{number}"));
        let mut child = Command::new(BIN)
            .arg("--run-dir")
            .arg(&run)
            .arg("--log-dir")
            .arg(dir.path().join("log"))
            .env("NOTIFY_SOCKET", to)
            .spawn()
            .unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..len].starts_with(b"READY=1\n"));
        assert!(run.join("logkeeper.sock").exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn usage_errors_exit_with_2_and_version_with_0() {
    let run =
        |args: &[&str]| Command::new(BIN).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(run(&["--nonsense"]).code(), Some(2));
    assert_eq!(run(&[]).code(), Some(2));
    assert_eq!(run(&["--version"]).code(), Some(0));
    assert_eq!(run(&["--help"]).code(), Some(0));
}

#[test]
fn a_hundred_containers_cost_little_memory() {
    let node = Node::start(&[]);
    let containers: Vec<_> = (0..110).map(|n| node.open(&format!("p{n}"), &format!("c{n}"))).collect();
    for container in &containers {
        container.say("hello\n");
    }
    for container in &containers {
        container.wait_lines(1);
    }
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", node.pid())).unwrap();
    let pss = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    println!("110 containers, each with a line written: {}", pss.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(node.keeper.status().unwrap().containers.len(), 110);
}
