//! The store of a control endpoint that one machine is not enough for: etcd, of which every replica of the endpoint is a client. The
//! endpoint holds no state of its own then.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity, KeyValue, KvClient,
    ResponseHeader, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};

use super::{Change, Changes, Entry, Expected, Found, Page, Range, Store, StoreError, Watch, Write, check};

/// What etcd holds of others is none of ours.
const ROOT: &str = "/daemonlet";
/// A call that has no answer by then is given up; its write may have happened.
const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How often a silent connection is asked for a sign of life, and how long that may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// The largest answer: [`PAGE_MAX`] of the largest objects.
const ANSWER_MAX: usize = 128 * 1024 * 1024;
/// The largest message of a watch: etcd cuts what is longer than one request into fragments, and one change has an old and a new value.
const TOLD_MAX: usize = 16 * 1024 * 1024;
/// Objects that are asked for at once: nobody can say before how large they are. Twice as many as long as they are small, up to the second.
const PAGE: i64 = 20;
const PAGE_MAX: i64 = 80;
/// What small is, in bytes of such a page.
const SMALL: usize = 256 * 1024;
/// A list that has a limit ends behind this many bytes too.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// gRPC's OUT_OF_RANGE: etcd's code for a revision that is compacted or in the future.
const OUT_OF_RANGE: i32 = 11;

/// How etcd is reached. Everything is PEM.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// URLs of the members, as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// The authority of the members' certificates.
    pub authority: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// See the top of the file.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    place: Arc<str>,
}

impl Etcd {
    /// Connects. Errors: `Unavailable` where no member answers in time.
    pub async fn connect(connection: Connection) -> Result<Etcd, StoreError> {
        let Connection { endpoints, authority, identity } = connection;
        let place: Arc<str> = endpoints.join(", ").into();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_PATIENCE)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            // A member that has lost the others would answer from the past and never end a watch.
            .with_require_leader(true);
        if authority.is_some() || identity.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(authority) = authority {
                tls = tls.ca_certificate(Certificate::from_pem(authority));
            }
            if let Some((certificate, key)) = identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        let connected = Client::connect(&endpoints, Some(options)).await;
        let client = connected.map_err(|error| unavailable(&place, "be connected", error))?;
        let etcd = Etcd { client, place };
        etcd.newest().await?;
        Ok(etcd)
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(ANSWER_MAX)
    }

    /// The newest revision of the whole store.
    async fn newest(&self) -> Result<u64, StoreError> {
        let options = GetOptions::new().with_count_only();
        let mut kv = self.kv();
        let answer = self.bounded("be read", kv.get(ROOT, Some(options))).await?;
        Ok(revision_of(answer.header()))
    }

    async fn page(&self, start: Vec<u8>, end: Vec<u8>, limit: i64, at: Option<u64>) -> Result<GetResponse, StoreError> {
        let mut options = GetOptions::new().with_range(end).with_limit(limit);
        if let Some(at) = at {
            options = options.with_revision(i64::try_from(at).unwrap_or(i64::MAX));
        }
        let mut kv = self.kv();
        let called = match tokio::time::timeout(PATIENCE, kv.get(start, Some(options))).await {
            Ok(called) => called,
            Err(late) => return Err(unavailable(&self.place, "be read", late)),
        };
        match (called, at) {
            (Ok(answer), _) => Ok(answer),
            (Err(error), Some(at)) if is_out_of_range(&error) => {
                let newest = self.newest().await?;
                Err(match at > newest {
                    true => StoreError::Future { asked: at, newest },
                    // etcd does not say here what it still has.
                    false => StoreError::Compacted { asked: at, oldest: at.saturating_add(1) },
                })
            }
            (Err(error), _) => Err(unavailable(&self.place, "be read", error)),
        }
    }

    async fn bounded<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>> + Send,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map_err(|error| unavailable(&self.place, operation, error)),
            Err(late) => Err(unavailable(&self.place, operation, late)),
        }
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Store for Etcd {
    type Watch = Following;

    async fn get(&self, key: &str) -> Result<Found, StoreError> {
        let mut kv = self.kv();
        let mut answer = self.bounded("be read", kv.get(full(key), None)).await?;
        let revision = revision_of(answer.header());
        Ok(Found { entry: answer.take_kvs().pop().map(entry), revision })
    }

    async fn list(&self, range: &Range) -> Result<Page, StoreError> {
        let prefix = full(&range.prefix);
        let start = match &range.after {
            Some(after) if *after >= range.prefix => format!("{}\0", full(after)),
            _ => prefix.clone(),
        };
        let end = end_of(&prefix);
        // etcd takes 0 for no limit.
        let limit = range.limit.map_or(usize::MAX, |limit| limit.max(1));
        let (mut start, mut at, mut size, mut bytes) = (start.into_bytes(), range.at, PAGE, 0_usize);
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let room = i64::try_from(limit.saturating_sub(entries.len())).unwrap_or(i64::MAX);
            let mut answer = self.page(start, end.clone(), size.min(room), at).await?;
            // All pages are of one moment.
            let revision = *at.get_or_insert(revision_of(answer.header()));
            let (more, count) = (answer.more(), u64::try_from(answer.count()).ok());
            let found = answer.take_kvs();
            let taken = u64::try_from(found.len()).unwrap_or(u64::MAX);
            let page: usize = found.iter().map(|found| found.value().len()).sum();
            bytes = bytes.saturating_add(page);
            start = found.last().map(|last| [last.key(), b"\0"].concat()).unwrap_or_default();
            entries.extend(found.into_iter().map(entry));
            let is_full = entries.len() >= limit || (range.limit.is_some() && bytes >= PAGE_BYTES_MAX);
            if !more || is_full || start.is_empty() {
                let remaining = count.map(|count| count.saturating_sub(taken));
                return Ok(Page { entries, revision, more, remaining });
            }
            size = if page < SMALL { size.saturating_mul(2).min(PAGE_MAX) } else { PAGE };
        }
    }

    async fn write(&self, write: Write) -> Result<u64, StoreError> {
        let Write { key, value, expected } = write;
        check(&key, value.as_deref())?;
        let path = full(&key);
        let (change, expected) = match (value, expected) {
            (Some(value), Expected::Absent) => (TxnOp::put(path.clone(), value, None), 0),
            (Some(value), Expected::At(revision)) => (TxnOp::put(path.clone(), value, None), revision),
            (None, Expected::At(revision)) => (TxnOp::delete(path.clone(), None), revision),
            (None, Expected::Absent) => {
                return Err(StoreError::Conflict { current: self.get(&key).await?.entry, key });
            }
        };
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        let transaction = Txn::new()
            .when([Compare::mod_revision(path.clone(), CompareOp::Equal, expected)])
            .and_then([change])
            .or_else([TxnOp::get(path, None)]);
        let mut kv = self.kv();
        let answer = self.bounded("be written", kv.txn(transaction)).await?;
        if answer.succeeded() {
            return Ok(revision_of(answer.header()));
        }
        let found = answer.op_responses().into_iter().next();
        let current = match found {
            Some(TxnOpResponse::Get(mut found)) => found.take_kvs().pop().map(entry),
            _ => None,
        };
        Err(StoreError::Conflict { key, current })
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Following, StoreError> {
        let newest = self.newest().await?;
        if after > newest {
            return Err(StoreError::Future { asked: after, newest });
        }
        let options = WatchOptions::new()
            .with_prefix()
            .with_prev_key()
            // A write is one change, so a revision is never in two of them.
            .with_fragment()
            .with_progress_notify()
            .with_start_revision(i64::try_from(after.saturating_add(1)).unwrap_or(i64::MAX));
        let mut client = self.client.watch_client().max_decoding_message_size(TOLD_MAX);
        let stream = self.bounded("be watched", client.watch(full(prefix), Some(options))).await?;
        Ok(Following { stream, place: self.place.clone(), after })
    }

    async fn compact(&self, upto: u64) -> Result<(), StoreError> {
        let upto = upto.min(self.newest().await?);
        let mut kv = self.kv();
        let call = kv.compact(i64::try_from(upto).unwrap_or(i64::MAX), None);
        match tokio::time::timeout(PATIENCE, call).await {
            // It has been done.
            Ok(Err(error)) if is_out_of_range(&error) => Ok(()),
            Ok(done) => done.map(drop).map_err(|error| unavailable(&self.place, "be compacted", error)),
            Err(late) => Err(unavailable(&self.place, "be compacted", late)),
        }
    }
}

/// A watch of etcd's.
#[derive(Debug)]
pub struct Following {
    stream: WatchStream,
    place: Arc<str>,
    after: u64,
}

impl Watch for Following {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            let message = self.stream.message().await;
            let message = message.map_err(|error| unavailable(&self.place, "be watched", error))?;
            let Some(message) = message else {
                let ended = std::io::Error::other("the stream has ended");
                return Err(unavailable(&self.place, "be watched", ended));
            };
            if message.canceled() {
                let oldest = u64::try_from(message.compact_revision()).unwrap_or(0);
                if oldest > 0 {
                    return Err(StoreError::Compacted { asked: self.after, oldest });
                }
                let ended = std::io::Error::other(message.cancel_reason().to_owned());
                return Err(unavailable(&self.place, "be watched", ended));
            }
            let changes: Vec<Change> = message.events().iter().filter_map(change).collect();
            match changes.last() {
                // What the header says may be newer than what has been told.
                Some(last) => self.after = last.revision,
                None if message.created() => continue,
                None => self.after = self.after.max(revision_of(message.header())),
            }
            return Ok(Changes { changes, revision: self.after });
        }
    }
}

fn change(event: &etcd_client::Event) -> Option<Change> {
    let written = event.kv()?.clone();
    let revision = u64::try_from(written.mod_revision()).unwrap_or(0);
    let before = event.prev_kv().cloned().map(entry);
    let (key, now) = match event.event_type() {
        etcd_client::EventType::Put => {
            let now = entry(written);
            (now.key.clone(), Some(now))
        }
        etcd_client::EventType::Delete => (short(written.key()), None),
    };
    Some(Change { key, revision, now, before })
}

fn entry(found: KeyValue) -> Entry {
    let number = |revision: i64| u64::try_from(revision).unwrap_or(0);
    let (revision, created) = (number(found.mod_revision()), number(found.create_revision()));
    let key = short(found.key());
    let (_, value) = found.into_key_value();
    Entry { key, value, revision, created }
}

fn full(key: &str) -> String {
    format!("{ROOT}{key}")
}

/// Keys are ours, and ours are text.
fn short(key: &[u8]) -> String {
    let key = String::from_utf8_lossy(key);
    key.strip_prefix(ROOT).unwrap_or(&key).to_owned()
}

/// The first key behind all that begin with this, as etcd counts: the last byte is one more. Ours are text, so no byte is 255.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

fn revision_of(header: Option<&ResponseHeader>) -> u64 {
    header.and_then(|header| u64::try_from(header.revision()).ok()).unwrap_or(0)
}

fn is_out_of_range(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if i32::from(status.code()) == OUT_OF_RANGE)
}

fn unavailable(place: &str, operation: &'static str, source: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable { place: place.to_owned(), operation, source: Arc::new(source) }
}
