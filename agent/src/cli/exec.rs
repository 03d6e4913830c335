//! `exec`: a command in a container, its streams joined with this program's own; its exit code becomes ours.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::thread;

use bytes::Bytes;
use clap::Args;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Failure;
use super::client::Client;
use super::find::{self, field};
use crate::exec::frames::{Ask, Failed, Frame as _, Frames, Heard, Reason, Said, WINDOW};
use crate::exec::{PIECE_BYTES_MAX, Stream, TerminalSize};
use crate::http::exec::next;
use crate::http::rows::Kind;

/// Which container is meant where none is named: kubectl's annotation.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// A pod's name, or ds/NAME
    pub name: String,
    /// Only needed where the name is ambiguous
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// The container; without, the pod's default one
    #[arg(short, long, value_name = "C")]
    pub container: Option<String>,
    /// Hand on stdin
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal (with -i)
    #[arg(short, long)]
    pub tty: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

pub fn run(client: &Client, args: &ExecArgs, out: &mut impl Write) -> Result<(), Failure> {
    let pods = find::pods(client.list(Kind::Pods)?, &args.name, args.namespace.as_deref())?;
    // Of an old pod and its successor the one that stays.
    let leaving = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_some();
    let pod = pods.iter().rev().find(|pod| !leaving(pod)).or_else(|| pods.last());
    let pod = pod.ok_or_else(|| Failure::NotFound(format!("no pod {}", args.name)))?;
    let (container, hint) = container(pod, args.container.as_deref())?;
    if let Some(hint) = hint {
        say(&hint);
    }
    let terminal = match (args.tty && args.stdin, io::stdin().is_terminal()) {
        (true, true) => Some(size()),
        (true, false) => {
            say("Unable to use a TTY - input is not a terminal or the right kind of file");
            None
        }
        (false, _) => None,
    };
    let ask = Ask {
        uid: field(pod, "/metadata/uid").to_owned(),
        container,
        command: args.command.clone(),
        stdin: args.stdin,
        terminal: terminal.map(|it| (it.columns, it.rows)),
    };
    let code = client.on_runtime(async {
        let stream = client.exec_stream().await?;
        let _raw = terminal.map(|_| Raw::set()).transpose().map_err(Failure::Output)?;
        talk(stream, ask, out).await
    })?;
    match code {
        0 => Ok(()),
        code => Err(Failure::Ended(u8::try_from(code).unwrap_or(1))),
    }
}

/// On stderr, so that stdout is the command's alone.
fn say(text: &str) {
    let _nobody_reads = writeln!(io::stderr(), "{text}");
}

/// The container, and a hint where it was chosen among several, in kubectl's words.
pub(super) fn container(pod: &Value, asked: Option<&str>) -> Result<(String, Option<String>), Failure> {
    let names = |list: &str| -> Vec<String> {
        let all = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
        all.map(|it| field(it, "/name").to_owned()).collect()
    };
    let (mains, inits) = (names("/spec/containers"), names("/spec/initContainers"));
    let annotation = pod.pointer("/metadata/annotations").and_then(|all| all[DEFAULT_CONTAINER].as_str());
    let chosen = asked.or(annotation).or(mains.first().map(String::as_str)).unwrap_or_default();
    if !mains.iter().chain(&inits).any(|name| name == chosen) {
        let all = [mains.as_slice(), inits.as_slice()].concat().join(", ");
        let why = format!("pod {} has no container {chosen}; it has: {all}", find::name(pod));
        return Err(Failure::NotFound(why));
    }
    let several = mains.len() + inits.len() > 1;
    let hint = (asked.is_none() && annotation.is_none() && several).then(|| {
        let inits = inits.iter().map(|name| format!("{name} (init)"));
        let all: Vec<String> = mains.iter().cloned().chain(inits).collect();
        format!("Defaulted container \"{chosen}\" out of: {}", all.join(", "))
    });
    Ok((chosen.to_owned(), hint))
}

fn size() -> TerminalSize {
    let found = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()));
    found.map(|it| TerminalSize { columns: it.ws_col, rows: it.ws_row }).unwrap_or_default()
}

/// The terminal hands on every key, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without it there is nothing more to be done.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The command's exit code.
async fn talk(stream: impl AsyncRead + AsyncWrite, ask: Ask, out: &mut impl Write) -> Result<u32, Failure> {
    let (mut from, mut to) = tokio::io::split(stream);
    let broken = |why: io::Error| Failure::Unreachable(format!("the connection to the agent broke off: {why}"));
    let (stdin, terminal) = (ask.stdin, ask.terminal.is_some());
    to.write_all(&Said::Ask(ask).encode()).await.map_err(broken)?;
    let mut typed = stdin.then(read_stdin);
    let mut resized = signal(SignalKind::window_change())?;
    // A terminal must be put right again before the end.
    let mut ends = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut frames = Frames::default();
    let mut credit = WINDOW;
    loop {
        // All arms keep what they have not handed over; what is handed over is written before the next turn.
        let said = tokio::select! {
            heard = next::<Heard>(&mut from, &mut frames) => match heard.map_err(broken)? {
                Some(Heard::Output(Stream::Out, bytes)) => {
                    out.write_all(&bytes)?;
                    out.flush()?;
                    continue;
                }
                Some(Heard::Output(Stream::Err, bytes)) => {
                    io::stderr().write_all(&bytes)?;
                    continue;
                }
                Some(Heard::Taken(taken)) => {
                    credit = credit.saturating_add(usize::try_from(taken).unwrap_or(0)).min(WINDOW);
                    continue;
                }
                Some(Heard::Exited(code)) => return Ok(code),
                Some(Heard::Failed(failed)) => return Err(failure(failed)),
                None => return Err(Failure::Unreachable("the agent has ended, and the command with it".into())),
            },
            bytes = typing(&mut typed), if credit >= PIECE_BYTES_MAX => match bytes {
                Some(bytes) => {
                    credit -= bytes.len();
                    Said::Stdin(bytes)
                }
                None => {
                    typed = None;
                    Said::End
                }
            },
            _ = resized.recv(), if terminal => Said::Size(size()),
            _ = ends.0.recv() => return Err(Failure::Ended(128 + 15)),
            _ = ends.1.recv() => return Err(Failure::Ended(128 + 1)),
        };
        // An agent that has closed has said why: the next read tells.
        let _ = to.write_all(&said.encode()).await;
    }
}

/// None at the end of stdin; waits for ever where there is none.
async fn typing(typed: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// A thread, since a read of stdin cannot be given up; it ends with the program.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (typed, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES_MAX];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if typed.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

fn failure(failed: Failed) -> Failure {
    let Failed { reason, message } = failed;
    match reason {
        Reason::Absent => Failure::NotFound(message),
        Reason::Refused => Failure::Refused(message),
        Reason::Unreachable => Failure::Unreachable(message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn container_is_the_one_that_is_asked_for_or_the_pods_default() {
        let mut pod = json!({
            "metadata": {"name": "p", "annotations": {}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}
        });
        let chosen = |pod: &Value, asked| container(pod, asked).unwrap();
        let hint = "Defaulted container \"a\" out of: a, b, i (init)".to_owned();
        assert_eq!(chosen(&pod, None), ("a".into(), Some(hint)));
        assert_eq!(chosen(&pod, Some("i")), ("i".into(), None));
        pod["metadata"]["annotations"][DEFAULT_CONTAINER] = "b".into();
        assert_eq!(chosen(&pod, None), ("b".into(), None));
        assert!(matches!(container(&pod, Some("x")), Err(Failure::NotFound(why)) if why.contains("a, b, i")));
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(chosen(&one, None), ("a".into(), None));
    }
}
