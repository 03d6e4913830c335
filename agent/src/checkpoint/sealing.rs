//! Sealing: what holds Secrets lies on the disk encrypted, under a key that this machine's systemd-creds alone gives out.
//!
//! Driven by [`super::Checkpoint`]. systemd-creds takes a mebibyte at most and a process a call, so what it seals is a key of 32 bytes; that
//! seals the content (AES-256-GCM). The sealed key stands before each content, so that every file can be opened by itself, and is asked for
//! once in a life of the agent. It is sealed with the machine's own key and not by its TPM, whose state changes with its firmware: daemons
//! would wait for the endpoint then, and a TPM takes a second. Whoever seals it otherwise by hand is understood all the same.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// systemd-creds(1), of systemd 250 and later.
const PROGRAM: &str = "systemd-creds";
/// A sealed key is good under this name only.
const NAME: &str = "--name=daemonlet-checkpoint";
/// It takes 50 ms. Shorter than the patience with the disk: a call that hangs must not keep the set from being kept at all.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a key is tried to be opened, one after the other.
const OPEN_TRIES: u32 = 3;
/// Where it failed, the next content after this asks again.
const TRY_AGAIN: Duration = Duration::from_secs(600);
const KEY_BYTES: usize = 32;
/// A sealed key has 200 bytes; with a TPM's part a few thousand.
const OUTPUT_MAX: u64 = 64 << 10;

/// See the top of the file.
#[derive(Debug)]
pub struct Sealing {
    program: PathBuf,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    key: Option<Arc<Key>>,
    failed: Option<Instant>,
}

/// A key as systemd-creds has sealed it, and open.
pub struct Key {
    /// Base64 without spaces.
    sealed: String,
    open: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Default for Sealing {
    /// By systemd-creds, as it is found in PATH.
    fn default() -> Sealing {
        Sealing::by(PROGRAM.into(), PATIENCE)
    }
}

impl Sealing {
    /// By a program with the words of systemd-creds.
    pub fn by(program: PathBuf, patience: Duration) -> Sealing {
        Sealing { program, patience, state: Mutex::default() }
    }

    /// What contents are sealed with; None: nothing can be sealed here at present, which has been said.
    pub async fn key(&self) -> Option<Arc<Key>> {
        let mut state = self.state.lock().await;
        if state.key.is_some() || state.failed.is_some_and(|at| at.elapsed() < TRY_AGAIN) {
            return state.key.clone();
        }
        match self.make().await {
            Ok(key) => {
                tracing::info!("the checkpoint's Secrets are sealed by systemd-creds");
                state.key = Some(Arc::new(key));
            }
            Err(why) => {
                tracing::warn!(
                    why,
                    "the checkpoint's Secrets are not sealed: its file is root's alone, and not encrypted"
                );
                state.failed = Some(Instant::now());
            }
        }
        state.key.clone()
    }

    async fn make(&self) -> Result<Key, String> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| "no random numbers".to_owned())?;
        let sealed = self.run(&["encrypt", "--with-key=host", NAME, "-", "-"], &bytes).await?;
        let sealed: String = String::from_utf8_lossy(&sealed).split_whitespace().collect();
        if sealed.is_empty() {
            return Err("systemd-creds gave nothing".to_owned());
        }
        // What cannot be opened now will not be opened after a boot.
        let opened = self.run(&["decrypt", NAME, "-", "-"], sealed.as_bytes()).await?;
        if opened != bytes {
            return Err("systemd-creds does not give back what it sealed".to_owned());
        }
        Ok(Key { sealed, open: unbound(&bytes)? })
    }

    /// The content again. Err: why it cannot be opened on this machine; of one that was opened and is not whole too.
    pub async fn open(&self, content: &[u8]) -> Result<Vec<u8>, String> {
        let cut = || "cut short".to_owned();
        let end = content.iter().position(|b| *b == b'\n').ok_or_else(cut)?;
        let sealed = std::str::from_utf8(&content[..end]).map_err(|_| cut())?;
        let (nonce, rest) = content[end + 1..].split_first_chunk::<NONCE_LEN>().ok_or_else(cut)?;
        let mut state = self.state.lock().await;
        let key = match state.key.clone().filter(|key| key.sealed == sealed) {
            Some(key) => key,
            None => {
                // A machine that boots may be slow just now; without this no pod of the endpoint that needs a Secret would start.
                let mut tries = 1;
                let bytes = loop {
                    match self.run(&["decrypt", NAME, "-", "-"], sealed.as_bytes()).await {
                        Err(_) if tries < OPEN_TRIES => tries += 1,
                        said => break said?,
                    }
                };
                Arc::new(Key { sealed: sealed.to_owned(), open: unbound(&bytes)? })
            }
        };
        let mut rest = rest.to_vec();
        let opened = key.open.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(NAME), &mut rest);
        let length = opened.map_err(|_| "it does not fit its key".to_owned())?.len();
        rest.truncate(length);
        state.key = Some(key);
        Ok(rest)
    }

    /// Both ways everything is in base64 or a few bytes. Ended when nobody waits any more.
    async fn run(&self, words: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not installed (it comes with systemd 250 and later)"),
            _ => format!("{program}: {error}"),
        })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let told = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read says why by its exit.
                let _ = stdin.write_all(input).await;
            }
        };
        let (mut output, mut said) = (Vec::new(), Vec::new());
        let ended = async {
            let (stdout, stderr) = (stdout.expect("it is piped"), stderr.expect("it is piped"));
            let (mut stdout, mut stderr) = (stdout.take(OUTPUT_MAX), stderr.take(OUTPUT_MAX));
            let ((), output, said) = tokio::join!(told, stdout.read_to_end(&mut output), stderr.read_to_end(&mut said));
            output.and(said)?;
            child.wait().await
        };
        let status = timeout(self.patience, ended)
            .await
            .map_err(|_| format!("{program} did not answer within {} s", self.patience.as_secs()))?
            .map_err(|error| format!("{program}: {error}"))?;
        match status.success() {
            true => Ok(output),
            false => Err(format!("{program} {}: {}", words[0], String::from_utf8_lossy(&said).trim())),
        }
    }
}

impl Key {
    /// For [`Sealing::open`]. None: there are no random numbers.
    pub fn seal(&self, mut content: Vec<u8>) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let aad = Aad::from(NAME);
        self.open.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut content).ok()?;
        let mut sealed = format!("{}\n", self.sealed).into_bytes();
        sealed.extend(nonce);
        sealed.extend(content);
        Some(sealed)
    }
}

fn unbound(bytes: &[u8]) -> Result<LessSafeKey, String> {
    let key =
        UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| "what systemd-creds gives is no key of ours".to_owned())?;
    Ok(LessSafeKey::new(key))
}
