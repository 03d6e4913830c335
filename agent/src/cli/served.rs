//! Both doors over a board, on a thread and in directories of their own, for tests.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::board::{Board, Command};
use crate::config::SOCKET;
use crate::http::Doors;

pub struct Served {
    pub board: Board,
    pub address: SocketAddr,
    pub commands: mpsc::Receiver<Command>,
    dir: Option<tempfile::TempDir>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub fn start() -> Served {
        let (board, commands) = Board::new();
        let dir = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (opened, address) = std::sync::mpsc::channel();
        let (run_dir, shown) = (dir.path().join("run"), board.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let doors = Doors::open(&run_dir, "127.0.0.1:0".parse().unwrap()).await.unwrap();
                opened.send(doors.address().unwrap()).unwrap();
                doors.serve(shown, async move { drop(stopped.await) }).await;
            });
        });
        let address = address.recv().unwrap();
        Served { board, address, commands, dir: Some(dir), stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.as_ref().expect("not stopped").path().join("run").join(SOCKET)
    }

    /// What it left behind.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.end();
        self.dir.take().expect("not stopped before")
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}
