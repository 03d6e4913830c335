//! One person's command in a container: frames in, frames out, whatever carries them.
//!
//! Spawned by the composition root ([`follow`]); the doors hand requests over through the board. When the person's end is gone,
//! the command is killed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pod::observed::ContainerState;
use tokio::sync::{Semaphore, mpsc, watch};

use super::frames::{Ask, Failed, Heard, Reason, Said, WINDOW};
use super::{Caller, Exec, ExecError, ExecStreams, OUTPUT_PIECES_MAX, TerminalSize};
use crate::board::Board;
use crate::seams::{Machine, Runtime};
use crate::worker::Shared;

/// Commands of people on this node at a time: each costs some buffers.
const AT_ONCE_MAX: usize = 64;
/// Frames between a door and its command, each way.
pub const FRAMES_MAX: usize = 4;
/// A person's end that takes nothing for so long is gone.
const READER_TIME_MAX: Duration = Duration::from_secs(3600);

/// A person's end.
#[derive(Debug)]
pub struct ExecRequest {
    pub ask: Ask,
    /// What is said further; closed when the person's end is gone.
    pub said: mpsc::Receiver<Said>,
    pub heard: mpsc::Sender<Heard>,
}

/// Carries out what is asked until the agent ends.
pub async fn follow<M: Machine>(mut asked: mpsc::Receiver<ExecRequest>, shared: Arc<Shared<M>>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while let Some(request) = asked.recv().await {
        let (shared, permit) = (shared.clone(), permits.clone().try_acquire_owned());
        tokio::spawn(async move {
            let ExecRequest { ask, said, heard } = request;
            let last = match (permit, container_id(&shared.board, &ask)) {
                (Err(_), _) => Heard::Failed(refused("too many commands of people run on this node".into())),
                (_, Err(failed)) => Heard::Failed(failed),
                (Ok(_permit), Ok(id)) => {
                    // What comes after the program may be a password.
                    let (program, words) = (ask.command.first(), ask.command.len());
                    tracing::info!(pod = ask.uid, container = ask.container, ?program, words, "exec");
                    match serve(shared.machine.runtime(), &id, &ask, said, &heard).await {
                        Some(last) => last,
                        None => return,
                    }
                }
            };
            // The person's end may be gone.
            let _ = heard.send_timeout(last, READER_TIME_MAX).await;
        });
    }
}

fn refused(message: String) -> Failed {
    Failed { reason: Reason::Refused, message }
}

/// The id of the container's run that runs.
fn container_id(board: &Board, ask: &Ask) -> Result<String, Failed> {
    let absent = |message: String| Failed { reason: Reason::Absent, message };
    let workloads = board.workloads();
    let view = workloads.values().flat_map(|it| &it.pods).find(|view| view.record.uid.0 == ask.uid);
    let view = view.ok_or_else(|| absent("no such pod: it has just gone".into()))?;
    let name = &view.record.name;
    if !view.template.spec.containers.iter().any(|it| it.name == ask.container) {
        return Err(absent(format!("pod {name} has no container {}", ask.container)));
    }
    let runs = view.containers.iter().filter(|it| it.run.container == ask.container);
    let running = runs.filter(|it| matches!(it.state, ContainerState::Running { .. })).max_by_key(|it| it.run.attempt);
    running
        .map(|it| it.id.clone())
        .ok_or_else(|| refused(format!("container {} of pod {name} does not run at present", ask.container)))
}

/// The last frame; None when the person's end is gone, and the command with it.
async fn serve<R: Runtime>(
    runtime: &R,
    id: &str,
    ask: &Ask,
    mut said: mpsc::Receiver<Said>,
    heard: &mpsc::Sender<Heard>,
) -> Option<Heard> {
    let terminal = ask.terminal.map(|(columns, rows)| TerminalSize { columns, rows });
    let (typed, stdin) = mpsc::channel(1);
    let (output, mut pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let (sizes, size) = watch::channel(terminal.unwrap_or_default());
    let streams = ExecStreams { stdin: ask.stdin.then_some(stdin), output, stage: None, size: Some(size) };
    let exec = Exec { id, command: &ask.command, terminal, caller: Caller::Person };
    let running = runtime.exec(exec, streams);
    // Bounded by the window, which is counted.
    let (queue, mut queued) = mpsc::unbounded_channel::<Bytes>();
    let pending = std::sync::atomic::AtomicUsize::new(0);
    let listening = async {
        use std::sync::atomic::Ordering::Relaxed;
        let mut queue = Some(queue);
        while let Some(said) = said.recv().await {
            match said {
                Said::Stdin(bytes) => {
                    if pending.fetch_add(bytes.len(), Relaxed) + bytes.len() > WINDOW {
                        // It does not keep to what was agreed.
                        return;
                    }
                    // What comes after the end, or to a command that has ended, is nobody's.
                    let _ = queue.as_ref().map(|queue| queue.send(bytes));
                }
                Said::End => queue = None,
                Said::Size(size) => drop(sizes.send_replace(size)),
                Said::Ask(_) => return,
            }
        }
    };
    let feeding = async {
        while let Some(bytes) = queued.recv().await {
            let taken = bytes.len();
            if typed.send(bytes).await.is_err() {
                break;
            }
            pending.fetch_sub(taken, std::sync::atomic::Ordering::Relaxed);
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            if heard.send(Heard::Taken(taken)).await.is_err() {
                break;
            }
        }
        drop(typed);
        std::future::pending::<()>().await;
    };
    let showing = async {
        while let Some((stream, bytes)) = pieces.recv().await {
            if heard.send_timeout(Heard::Output(stream, bytes), READER_TIME_MAX).await.is_err() {
                return;
            }
        }
    };
    let ended = async { tokio::join!(running, showing).0 };
    // What loses is dropped: with the command's future the command is killed.
    tokio::select! {
        ended = ended => Some(last(ended)),
        () = listening => None,
        () = feeding => None,
    }
}

fn last(ended: Result<u32, ExecError>) -> Heard {
    let (reason, message) = match ended {
        Ok(code) => return Heard::Exited(code),
        // The runtime's, not the agent's: that answers.
        Err(ExecError::Unavailable(why)) => (Reason::Refused, why),
        Err(ExecError::NotStarted(why)) => (Reason::Refused, format!("the command cannot be started: {why}")),
        Err(why) => (Reason::Refused, why.to_string()),
    };
    Heard::Failed(Failed { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Stream;
    use crate::fake::{FakeExec, World};

    fn ask(command: &str) -> Ask {
        let command = vec![command.to_owned()];
        Ask { uid: "u".into(), container: "c".into(), command, stdin: true, terminal: None }
    }

    fn world() -> World {
        let world = World::new(1);
        world.run_container("c");
        let scripted = |exit_code, output: &str, hangs| FakeExec { exit_code, output: output.into(), hangs };
        world.state().execs.insert("fails".into(), scripted(3, "said", false));
        world.state().execs.insert("hangs".into(), scripted(0, "", true));
        world
    }

    #[tokio::test]
    async fn output_comes_before_the_exit_code() {
        let (_said, listens) = mpsc::channel(FRAMES_MAX);
        let (heard, mut hears) = mpsc::channel(FRAMES_MAX);
        let last = serve(&world(), "c", &ask("fails"), listens, &heard).await;
        assert_eq!(last, Some(Heard::Exited(3)));
        assert_eq!(hears.try_recv(), Ok(Heard::Output(Stream::Out, "said".into())));
    }

    #[test]
    fn a_runtime_that_is_away_is_no_agent_that_is() {
        let Heard::Failed(failed) = last(Err(ExecError::Unavailable("no answer".into()))) else { panic!("it fails") };
        assert_eq!(failed.reason, Reason::Refused);
    }

    #[tokio::test]
    async fn a_person_who_is_gone_ends_the_command() {
        let (said, listens) = mpsc::channel(FRAMES_MAX);
        let (heard, _hears) = mpsc::channel(FRAMES_MAX);
        drop(said);
        assert_eq!(serve(&world(), "c", &ask("hangs"), listens, &heard).await, None);
    }

    #[tokio::test]
    async fn more_than_the_window_ends_the_command() {
        let (said, listens) = mpsc::channel(FRAMES_MAX);
        let (heard, mut hears) = mpsc::channel(FRAMES_MAX);
        let (world, ask) = (world(), ask("hangs"));
        let flooding = async {
            let piece = Bytes::from(vec![0; 16 << 10]);
            let mut sent = 0;
            while said.send(Said::Stdin(piece.clone())).await.is_ok() {
                sent += 1;
            }
            sent
        };
        let (last, sent, ()) = tokio::join!(
            async {
                let last = serve(&world, "c", &ask, listens, &heard).await;
                drop(heard);
                last
            },
            flooding,
            async { while hears.recv().await.is_some() {} }
        );
        assert_eq!(last, None);
        assert!(sent < 16, "{sent}");
    }
}
