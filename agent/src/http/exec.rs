//! The socket's stream for a command in a container: HTTP/1.1 upgraded to frames ([`crate::exec::frames`]), both ways.
//!
//! Version 1 as the rest of the socket: the same program speaks both ends. The first frame says what is asked for.

use std::io;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::internal::error;
use super::reply::{self, Reply};
use crate::board::Board;
use crate::exec::frames::{Failed, Frame, Frames, Heard, Reason, Said};
use crate::exec::serve::{ExecRequest, FRAMES_MAX};

/// The name of what the connection is upgraded to.
pub const PROTOCOL: &str = "daemonlet-exec-1";
/// Until the first frame is here.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// Streams at a time: as many as run, and some that still ask. Upgraded connections are no longer among the door's.
const OPEN_MAX: usize = 80;
static OPEN: Semaphore = Semaphore::const_new(OPEN_MAX);

pub fn open(board: Board, mut request: Request<Incoming>) -> Response<Reply> {
    if request.headers().get(UPGRADE).is_none_or(|wanted| wanted != PROTOCOL) {
        return error(StatusCode::UPGRADE_REQUIRED, "this path takes an upgrade; is the command line another version?");
    }
    let Ok(place) = OPEN.try_acquire() else {
        return error(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many commands of people run on this node; end one of them first",
        );
    };
    tokio::spawn(async move {
        let _place = place;
        match hyper::upgrade::on(&mut request).await {
            Ok(stream) => talk(&board, TokioIo::new(stream)).await,
            Err(why) => tracing::debug!(%why, "a connection was not upgraded"),
        }
    });
    let mut response = reply::text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Until the command or the person's end is gone.
async fn talk(board: &Board, stream: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut frames = Frames::default();
    let first = tokio::time::timeout(ASK_TIME_MAX, next::<Said>(&mut from, &mut frames)).await;
    let Ok(Ok(Some(Said::Ask(ask)))) = first else { return };
    let (tell, said) = mpsc::channel(FRAMES_MAX);
    let (heard, mut hears) = mpsc::channel(FRAMES_MAX);
    if let Err(message) = board.exec(ExecRequest { ask, said, heard: heard.clone() }) {
        // Nothing else is in it.
        let _ = heard.try_send(Heard::Failed(Failed { reason: Reason::Refused, message }));
    }
    drop(heard);
    let listening = async {
        while let Ok(Some(frame)) = next(&mut from, &mut frames).await {
            if tell.send(frame).await.is_err() {
                break;
            }
        }
        // The person's end is gone: so is the command, and what it still says is taken by nobody.
        drop(tell);
        std::future::pending::<()>().await;
    };
    let telling = async {
        while let Some(frame) = hears.recv().await {
            to.write_all(&frame.encode()).await?;
            to.flush().await?;
        }
        to.shutdown().await
    };
    // The command's end closes its frames and ends the one, a write that fails too; the other never ends.
    tokio::select! {
        told = telling => if let Err(why) = told {
            tracing::debug!(%why, "a person's end is gone");
        },
        () = listening => {}
    }
}

/// The next frame; None at the stream's end. Cancel-safe: what was read is kept in `frames`.
pub async fn next<F: Frame>(from: &mut (impl AsyncRead + Unpin), frames: &mut Frames) -> io::Result<Option<F>> {
    loop {
        if let Some(frame) = frames.take().map_err(io::Error::other)? {
            return Ok(Some(frame));
        }
        if from.read_buf(frames.buffer()).await? == 0 {
            return Ok(None);
        }
    }
}
