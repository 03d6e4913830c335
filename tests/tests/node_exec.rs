//! `daemonlet exec`: a person's command in a container, as a shell sees it.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::json;
use tests::client::{self, Output};
use tests::manifest::pod;
use tests::node::{TestNode, program};
use tests::wait::wait_for;

fn started() -> TestNode {
    let node = TestNode::start();
    node.put("a.yaml", &pod("a").text());
    node.wait_running("a");
    node
}

fn exec(node: &TestNode, words: &[&str]) -> Output {
    node.cli(&[&["exec", "a-node-a", "--"], words].concat())
}

#[test]
fn streams_are_apart_and_the_exit_code_is_the_commands() {
    let node = started();
    let output = exec(&node, &["sh", "-c", "echo out; echo err >&2; exit 7"]).exits(7);
    assert_eq!(output.out, "out\n");
    assert_eq!(output.err, "err\ndaemonlet: command terminated with exit code 7\n");
    assert_eq!(exec(&node, &["echo", "a b", "$HOME"]).ok().out, "a b $HOME\n");
    // Far more than any buffer between: nothing is lost and nothing waits for ever.
    let zeros = exec(&node, &["dd", "if=/dev/zero", "bs=65536", "count=64"]).ok().out;
    assert_eq!(zeros.len(), 64 << 16);
}

#[test]
fn errors_have_the_contracts_exit_codes() {
    let node = started();
    node.cli(&["exec", "nobody", "--", "true"]).exits(4);
    let none = node.cli(&["exec", "a-node-a", "-c", "nobody", "--", "true"]).exits(4);
    assert!(none.err.contains("it has: "), "{none:?}");
    node.cli(&["exec", "a-node-a"]).exits(2);
    let missing = exec(&node, &["/no/such/program"]).exits(1);
    assert!(missing.err.contains("/no/such/program"), "{missing:?}");
    node.put("b.yaml", &pod("b").field("command", json!(["/no/such/program"])).text());
    wait_for("b is known", || match node.cli(&["exec", "b-node-a", "--", "true"]) {
        it if it.code == 1 && it.err.contains("does not run") => Ok(()),
        it => Err(format!("{it:?}")),
    });
}

#[test]
fn stdin_is_handed_on_and_its_end_too() {
    let node = started();
    let mut command = node.command(program("daemonlet"));
    command.args(["exec", "-i", "a-node-a", "--run-dir"]).arg(node.run_dir()).args(["--", "sh", "-c", "wc -c; exit 3"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(stdin);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((said.trim(), child.wait().unwrap().code()), ((3 << 20).to_string().as_str(), Some(3)));
}

#[test]
fn who_leaves_ends_the_command() {
    let node = started();
    let mut command = node.command(program("daemonlet"));
    command.args(["exec", "a-node-a", "--run-dir"]).arg(node.run_dir());
    let mut child = command.args(["--", "sh", "-c", "sleep 4444 & sleep 4444"]).spawn().unwrap();
    let sleeping = |wanted: bool| {
        let list = exec(&node, &["ps"]).ok().out;
        if list.contains("sleep 4444") == wanted { Ok(()) } else { Err(list) }
    };
    wait_for("it runs", || sleeping(true));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("it has ended", || sleeping(false));
}

#[test]
fn a_terminal_is_as_large_as_the_persons() {
    let node = started();
    let run_dir = node.run_dir();
    let words = format!(
        "stty rows 33 cols 77; {} exec -it a-node-a --run-dir {} -- sh -c 'test -t 0 && busybox stty size; exit 9'; echo code $?; stty -a",
        program("daemonlet").display(),
        run_dir.display()
    );
    // script(1) has a terminal for it.
    let mut command = node.command("script");
    let said = client::run(command.args(["-qec", &words, "/dev/null"]).stdin(Stdio::null()));
    assert!(said.out.contains("33 77") && said.out.contains("code 9"), "{said:?}");
    // And it is as it was.
    assert!(said.out.contains(" icanon") && said.out.contains(" echo "), "{said:?}");
}
