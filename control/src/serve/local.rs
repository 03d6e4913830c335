//! The root-only socket in the data directory, by which the words about tokens, `node revoke` and `backup` reach the endpoint that runs with it.
//!
//! Not the API: the embedded store belongs to one process, and making a token or a copy of everything is for root on this machine alone, with whom
//! no certificate has to be exchanged. A request and its answer are one line of JSON each; a backup follows its line as a stream.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::copy;
use crate::clock::seconds;
use crate::door::authority::Authority;
use crate::door::join::{JoinError, Joining, Known, Wanted};
use crate::store::any::AnyStore;

/// The socket's name in the data directory.
pub const SOCKET: &str = "daemonlet-control.sock";
/// A request, in bytes.
const LINE_MAX: u64 = 8 << 10;
/// An answer: as many tokens as there may be, with the longest names of nodes.
const ANSWER_MAX: u64 = 128 << 10;
/// Connections at a time: people and their scripts.
const CONNECTIONS_MAX: usize = 8;
/// Until a request is read, and until its answer has begun.
const PATIENCE: Duration = Duration::from_secs(30);
/// A reader of a backup that takes nothing for this long has gone.
const STALLED: Duration = Duration::from_secs(60);
/// After a failed accept (no descriptors left), so that it is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Token { ttl: Duration, uses: u32, node: Option<String> },
    Tokens,
    RevokeToken { id: String },
    RevokeNode { node: String },
    Backup,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "no control endpoint runs with the data directory {place}; start one (daemonlet-control serve), or name its --data-dir"
    )]
    NotRunning { place: String },
    #[error("the data directory {place} is for root alone")]
    Permission { place: String },
    #[error("the control endpoint at {place} does not answer")]
    Silent {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

/// An answer that is no refusal, and what follows it.
#[derive(Debug)]
pub struct Answer {
    line: Value,
    stream: BufReader<BlockingStream>,
}

impl Asked {
    fn to_json(&self) -> Value {
        match self {
            Asked::Token { ttl, uses, node } => {
                json!({ "word": "token", "ttl": ttl.as_secs(), "uses": uses, "node": node })
            }
            Asked::Tokens => json!({ "word": "tokens" }),
            Asked::RevokeToken { id } => json!({ "word": "revoke-token", "id": id }),
            Asked::RevokeNode { node } => json!({ "word": "revoke-node", "node": node }),
            Asked::Backup => json!({ "word": "backup" }),
        }
    }

    fn parse(line: &str) -> Option<Asked> {
        let asked: Value = serde_json::from_str(line).ok()?;
        match asked["word"].as_str()? {
            "token" => Some(Asked::Token {
                ttl: Duration::from_secs(asked["ttl"].as_u64()?),
                uses: u32::try_from(asked["uses"].as_u64()?).ok()?,
                node: asked["node"].as_str().map(str::to_owned),
            }),
            "tokens" => Some(Asked::Tokens),
            "revoke-token" => Some(Asked::RevokeToken { id: asked["id"].as_str()?.to_owned() }),
            "revoke-node" => Some(Asked::RevokeNode { node: asked["node"].as_str()?.to_owned() }),
            "backup" => Some(Asked::Backup),
            _ => None,
        }
    }

    /// Does what concerns who may join, and says what is answered.
    pub async fn carry_out(self, joining: &Joining) -> Result<Value, JoinError> {
        Ok(match self {
            Asked::Token { ttl, uses, node } => {
                let token = joining.create(&Wanted { ttl, uses, node: node.clone() }).await?;
                tracing::info!(ttl = ttl.as_secs(), uses, node, "a join token was made");
                json!({ "token": token })
            }
            Asked::Tokens => {
                let shown = |Known { id, expires, uses, node }: Known| json!({ "id": id, "expires": seconds(expires), "uses": uses, "node": node });
                let tokens: Vec<Value> = joining.tokens().await?.into_iter().map(shown).collect();
                json!({ "tokens": tokens })
            }
            Asked::RevokeToken { id } => {
                let was_there = joining.revoke_token(&id).await?;
                tracing::info!(id, was_there, "a join token was revoked");
                json!({ "revoked": was_there })
            }
            Asked::RevokeNode { node } => {
                let was_there = joining.revoke_node(&node).await?;
                tracing::info!(node, was_there, "a node's certificates were revoked");
                json!({ "revoked": was_there })
            }
            Asked::Backup => json!({}),
        })
    }
}

impl Answer {
    pub fn into_line(self) -> Value {
        self.line
    }

    pub fn into_stream(self) -> impl io::Read {
        self.stream
    }
}

/// Asks the endpoint that runs with this data directory. Blocks.
pub fn ask(data_dir: &Path, asked: &Asked) -> Result<Answer, LocalError> {
    let place = || data_dir.display().to_string();
    let silent = |source| LocalError::Silent { place: place(), source };
    let stream = BlockingStream::connect(data_dir.join(SOCKET)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LocalError::NotRunning { place: place() },
        io::ErrorKind::PermissionDenied => LocalError::Permission { place: place() },
        _ => silent(error),
    })?;
    let asking = || -> io::Result<(String, BufReader<BlockingStream>)> {
        stream.set_read_timeout(Some(STALLED))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        (&stream).write_all(format!("{}\n", asked.to_json()).as_bytes())?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        (&mut reader).take(ANSWER_MAX).read_line(&mut line)?;
        Ok((line, reader))
    };
    let (line, stream) = asking().map_err(silent)?;
    let line: Value = serde_json::from_str(&line).map_err(|error| silent(error.into()))?;
    match line["error"].as_str() {
        Some(why) => Err(LocalError::Refused(why.to_owned())),
        None => Ok(Answer { line, stream }),
    }
}

/// The endpoint's side.
pub struct Local {
    listener: UnixListener,
    joining: Joining,
    store: AnyStore,
    authority: Arc<Authority>,
    data_dir: PathBuf,
}

impl Local {
    /// Opens the socket. Whoever has the data directory's lock may take the place of one that was left behind.
    pub fn open(data_dir: &Path, joining: Joining, store: AnyStore) -> io::Result<Local> {
        let path = data_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The directory is root's alone, so there is no moment in which another could connect.
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let authority = joining.authority().clone();
        Ok(Local { listener, joining, store, authority, data_dir: data_dir.to_owned() })
    }

    /// Answers for ever.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let local = Arc::new(self);
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match local.listener.accept().await {
                Ok((stream, _)) => {
                    let local = local.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = local.answer(stream).await {
                            tracing::debug!(%error, "a request on the local socket was not answered");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the local socket does not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let mut reader = tokio::io::BufReader::new(stream);
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, (&mut reader).take(LINE_MAX).read_line(&mut line)).await??;
        let mut stream = reader.into_inner();
        let said = match Asked::parse(&line) {
            Some(Asked::Backup) => return self.backup(stream).await,
            Some(asked) => match asked.carry_out(&self.joining).await {
                Ok(answer) => answer,
                Err(error) => json!({ "error": error.to_string() }),
            },
            None => json!({ "error": "the endpoint is of another version: it does not know this request" }),
        };
        stream.write_all(format!("{said}\n").as_bytes()).await
    }

    async fn backup(&self, mut stream: UnixStream) -> io::Result<()> {
        let AnyStore::Embedded(store) = self.store.clone() else {
            let why = "with etcd, everything is in etcd, the authority included: make a copy there (etcdctl snapshot save FILE)";
            return stream.write_all(format!("{}\n", json!({ "error": why })).as_bytes()).await;
        };
        let (authority, data_dir) = (self.authority.clone(), self.data_dir.clone());
        let copied = tokio::task::spawn_blocking(move || copy::of(&store, &authority, &data_dir)).await?;
        let copy = match copied {
            Ok(copy) => copy,
            Err(error) => {
                return stream.write_all(format!("{}\n", json!({ "error": super::chain(&error) })).as_bytes()).await;
            }
        };
        stream.write_all(b"{}\n").await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(STALLED))?;
        tokio::task::spawn_blocking(move || copy.write(stream)).await??;
        tracing::info!("a backup was made");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_arrive_as_they_were_asked() {
        let token = Asked::Token { ttl: Duration::from_secs(5), uses: 3, node: Some("a".into()) };
        let empty = Asked::Token { ttl: Duration::ZERO, uses: 0, node: None };
        let revoke = [Asked::RevokeToken { id: "i".into() }, Asked::RevokeNode { node: "n".into() }];
        for asked in [token, empty, Asked::Tokens, Asked::Backup].into_iter().chain(revoke) {
            assert_eq!(Asked::parse(&asked.to_json().to_string()), Some(asked));
        }
        for wrong in ["", "{}", "[]", r#"{"word":"token"}"#, r#"{"word":"stop"}"#] {
            assert_eq!(Asked::parse(wrong), None);
        }
    }

    #[test]
    fn where_nobody_runs_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(dir.path(), &Asked::Backup).unwrap_err();
        assert!(matches!(error, LocalError::NotRunning { .. }));
        assert!(error.to_string().contains("daemonlet-control serve"));
    }
}
