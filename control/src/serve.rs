//! The endpoint as it runs: the composition root, which makes everything and names everything; nobody imports it but the command line.
//!
//! Order at start: the data directory and its lock, the store, the authority, the objects that are always there, the doors, the loops, then READY.
//! At the stop: the doors close, the loops give their Lease back, and what is stored is stored already.

mod bootstrap;
pub mod copy;
mod hosts;
pub mod local;
pub mod offline;
mod watchdog;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use uuid::Uuid;

use crate::api::objects::Objects;
use crate::clock::Clock;
use crate::config::{Config, EtcdPlace, StoreChoice};
use crate::contacts::Contacts;
use crate::door::authority::{Authority, keep, kubeconfig};
use crate::door::identity::Authenticator;
use crate::door::join::Joining;
use crate::door::rules::Authorizer;
use crate::door::service_accounts::ServiceAccounts;
use crate::door::tls::{self, ServerCertificate};
use crate::fleet::{self, Api, Fleet, Host};
use crate::http::{self, Check, Checks};
use crate::loops;
use crate::loops::itself::Address;
use crate::store::any::AnyStore;
use crate::store::embedded::{Embedded, Growth};
use crate::store::etcd::{Connection, Etcd};
use crate::store::{Range, Store as _};

/// The kubeconfig's name in the data directory.
pub const KUBECONFIG: &str = "admin.kubeconfig";
/// A key that is no object's: what is asked for is the revision that comes with the answer, or whether there is an answer.
const REVISION_OF: &str = "/daemonlet/";
/// Below it are all objects.
const OBJECTS: &str = "/registry/";
/// How often certificates and the machine's addresses are looked at: they change in months, and a laptop's address within a day.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How long what has been replaced is kept for watches that come back: twice Kubernetes' own five minutes.
const HISTORY: Duration = Duration::from_secs(600);

/// The same where much is written.
const HISTORY_LEAST: Duration = Duration::from_secs(120);
/// How soon it is tried again to shorten it.
const FORGET_AGAIN: Duration = Duration::from_secs(10);

/// Runs until it is told to stop (SIGTERM, SIGINT).
pub async fn run(config: Config) -> anyhow::Result<()> {
    let clock = Clock::system();
    let data_dir = config.data_dir.clone();
    let _lock = tokio::task::spawn_blocking(move || offline::lock(&data_dir)).await??;
    let store = open(&config).await?;
    let objects = Objects::new(store.clone(), clock.clone());
    // Before there is an authority: where there is one, the store has had objects.
    bootstrap::ensure(&objects).await.context("the objects that are always there cannot be made")?;
    let authority = Arc::new(authority(&config, &store, &clock).await?);
    let listener = listen(config.listen, "--listen").await?;
    let nodes_listener = listen(config.nodes_listen, "--nodes-listen").await?;
    let (api, nodes) = (listener.local_addr()?, nodes_listener.local_addr()?);
    let names = hosts::names(&config.own_names(), &[api, nodes]);
    let certificate = Arc::new(ServerCertificate::new(authority.clone(), names, clock.now())?);
    let joining = Joining::new(authority.clone(), store.clone(), clock.clone());
    let accounts = ServiceAccounts::new(&authority, store.clone(), clock.clone());
    let authorizer = Authorizer::start(store.clone()).await?;
    let authenticator = Authenticator::new(joining.clone(), accounts.clone());
    let contacts = Contacts::new(clock.clone());
    let address = hosts::address(api);
    let own = Host { host: address.to_string(), port: api.port() };
    let advertised = config.api_advertise.clone();
    let advertised = advertised.map(|it| Host { host: it.host, port: it.port.unwrap_or(api.port()) });
    // A client that reads the Service is told the same, where it can be said there.
    let address = match advertised.as_ref().map(|it| (it.host.parse(), it.port)) {
        Some((Ok(ip), port)) => Address { ip, port },
        _ => Address { ip: address, port: api.port() },
    };
    let is_everywhere = api.ip().is_unspecified();
    let for_pods = Api { advertised, own, is_everywhere, names: config.tls_names.clone() };
    let fleet = Fleet::new(objects.clone(), joining.clone(), contacts.clone(), accounts, for_pods);
    let kubeconfig = config.data_dir.join(KUBECONFIG);
    kubeconfig::ensure(&kubeconfig, &authority, api, clock.now())?;
    let (stop, stopped) = watch::channel(false);
    let door = http::Door::new(objects.clone(), authenticator, authorizer, Arc::new(fleet.clone()), checks(&store));
    let tls = Arc::new(tls::for_clients(certificate.clone(), http::PROTOCOLS)?);
    let mut serving = tokio::spawn(http::serve(listener, tls, Arc::new(door), stopped));
    let tls = Arc::new(tls::for_nodes(certificate.clone(), fleet::ALPN)?);
    tokio::spawn(fleet.clone().follow());
    let mut in_session = tokio::spawn(fleet::serve(fleet, nodes_listener, tls, stop.subscribe()));
    let settings = loops::Settings {
        root_ca: authority.certificate_pem().to_owned(),
        address: Some(address),
        // Several endpoints share an etcd; the file belongs to one.
        election: matches!(store, AnyStore::Etcd(_)).then(|| format!("{}_{}", hosts::name(), Uuid::new_v4())),
    };
    tokio::spawn(watchdog::run(objects.clone()));
    let loops = loops::start(objects, contacts, settings);
    let local = local::Local::open(&config.data_dir, joining.clone(), store.clone()).with_context(|| {
        format!("{}: the local socket cannot be made", config.data_dir.join(local::SOCKET).display())
    })?;
    tokio::spawn(local.serve());
    tokio::spawn(forget(store.clone()));
    tokio::spawn(look_after(certificate, authority.clone(), Looked { config, api, nodes, kubeconfig, clock }));
    let mut stops = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tell_systemd(&[NotifyState::Ready]);
    tracing::info!(%api, %nodes, pin = authority.pin(), "the control endpoint is ready");
    tokio::select! {
        _ = stops.0.recv() => {}
        _ = stops.1.recv() => {}
        // Whoever watches over the program starts it again.
        ended = &mut serving => anyhow::bail!("the listener for clients has ended: {ended:?}"),
        ended = &mut in_session => anyhow::bail!("the listener for nodes has ended: {ended:?}"),
    }
    tell_systemd(&[NotifyState::Stopping]);
    stop.send_replace(true);
    // Both bound their own end.
    loops.stop().await;
    let _ = serving.await;
    let _ = in_session.await;
    Ok(())
}

/// What `/livez` and `/readyz` look at.
fn checks(store: &AnyStore) -> Checks {
    let store = store.clone();
    let look = move || -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let store = store.clone();
        Box::pin(async move { store.get(REVISION_OF).await.map(drop).map_err(|error| chain(&error)) })
    };
    // Another start would not mend a disk, nor etcd.
    Checks(vec![Check { name: "store", of_life: false, look: Arc::new(look) }])
}

/// Nodes believe whoever has the authority: with it an empty store is not one that begins, but one that is lost, and every node would be told that
/// it is to have nothing.
async fn open(config: &Config) -> anyhow::Result<AnyStore> {
    let place = match &config.store {
        StoreChoice::Embedded => config.data_dir.join(offline::STORE),
        StoreChoice::Etcd(place) => {
            let store: AnyStore = etcd(place).await?.into();
            anyhow::ensure!(
                !is_lost(&store).await?,
                "etcd has an authority ({key}) and no objects: every node would be told to end its daemons. Put a snapshot of etcd back, or \
                 remove the authority's key too to begin a fleet anew",
                key = keep::KEY,
            );
            return Ok(store);
        }
    };
    let store: AnyStore = tokio::task::spawn_blocking(move || Embedded::open(&place)).await??.into();
    let is_empty = store.get(REVISION_OF).await?.revision == 0;
    let directory = config.data_dir.display();
    anyhow::ensure!(
        !is_empty || !config.data_dir.join(keep::FILE).exists(),
        "{directory} has an authority ({file}) and an empty store: every node would be told to end its daemons. Put a backup back \
         (daemonlet-control restore FILE), or remove {directory}/{file} too to begin a fleet anew",
        file = keep::FILE,
    );
    Ok(store)
}

/// Whether a store that keeps the authority too has lost everything else: the first objects are made before it.
async fn is_lost(store: &AnyStore) -> anyhow::Result<bool> {
    let any = Range { prefix: OBJECTS.to_owned(), limit: Some(1), ..Range::default() };
    Ok(store.get(keep::KEY).await?.entry.is_some() && store.list(&any).await?.entries.is_empty())
}

async fn authority(config: &Config, store: &AnyStore, clock: &Clock) -> anyhow::Result<Authority> {
    let now = clock.now();
    match &config.store {
        StoreChoice::Embedded => {
            let data_dir = config.data_dir.clone();
            Ok(tokio::task::spawn_blocking(move || keep::in_directory(&data_dir, now)).await??)
        }
        StoreChoice::Etcd(_) => Ok(keep::in_store(store, "etcd", now).await?),
    }
}

/// Whether what goes to a member of etcd can be read on the way.
fn is_in_clear(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.strip_prefix('[').map_or_else(
        || authority.split(':').next().unwrap_or_default(),
        |rest| rest.split(']').next().unwrap_or_default(),
    );
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn etcd(place: &EtcdPlace) -> anyhow::Result<Etcd> {
    for url in place.endpoints.iter().filter(|url| is_in_clear(url)) {
        tracing::warn!(
            url,
            "etcd is spoken to without TLS: the authority's key and every Secret can be read on the way; use https:// and --etcd-ca"
        );
    }
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let identity = match &place.identity {
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        None => None,
    };
    let authority = place.authority.as_ref().map(read).transpose()?;
    let connection = Connection { endpoints: place.endpoints.clone(), authority, identity };
    Etcd::connect(connection)
        .await
        .context("etcd cannot be used (see --etcd-endpoints, --etcd-ca, --etcd-cert, --etcd-key)")
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        // A kernel without IPv6 has only the other everywhere.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}; give another address with {flag}"))
}

fn is_without_ipv6(error: &std::io::Error) -> bool {
    let kinds = [nix::errno::Errno::EAFNOSUPPORT, nix::errno::Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| kinds.iter().any(|kind| *kind as i32 == code))
}

/// What [`look_after`] has to know.
struct Looked {
    config: Config,
    api: SocketAddr,
    nodes: SocketAddr,
    kubeconfig: PathBuf,
    clock: Clock,
}

/// Renews the endpoint's certificate before it ends and when the machine's names or addresses have changed, and the administrator's kubeconfig.
async fn look_after(certificate: Arc<ServerCertificate>, authority: Arc<Authority>, looked: Looked) {
    let looked = Arc::new(looked);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (certificate, authority, looked) = (certificate.clone(), authority.clone(), looked.clone());
        let look = move || {
            let Looked { config, api, nodes, kubeconfig, clock } = &*looked;
            let names = hosts::names(&config.own_names(), &[*api, *nodes]);
            match certificate.renew(names, clock.now()) {
                Ok(true) => tracing::info!(until = %certificate.not_after(), "the endpoint has a new certificate"),
                Ok(false) => {}
                Err(error) => tracing::error!(error = chain(&error), "the endpoint's certificate cannot be renewed"),
            }
            match kubeconfig::ensure(kubeconfig, &authority, *api, clock.now()) {
                Ok(true) => {
                    tracing::info!(path = %kubeconfig.display(), "the administrator's kubeconfig was written anew")
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = chain(&error), "the administrator's kubeconfig cannot be written")
                }
            }
        };
        // A look that panicked is our own fault, and the next one comes.
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

/// Forgets what has been replaced for long enough, and earlier where much is written.
async fn forget(store: AnyStore) {
    let newest = async || store.get(REVISION_OF).await.ok().map(|found| found.revision);
    let mut before = None;
    loop {
        let now = newest().await;
        if let Some(upto) = before
            && let Err(error) = store.compact(upto).await
        {
            tracing::warn!(error = chain(&error), "the store's history is not shortened; it is tried again");
            tokio::time::sleep(FORGET_AGAIN).await;
        }
        before = now;
        let early = async {
            store.grown(Growth::Much).await;
            let soon = newest().await;
            tokio::select! {
                () = tokio::time::sleep(HISTORY_LEAST) => soon,
                () = store.grown(Growth::TooMuch) => newest().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(HISTORY) => {}
            upto = early => {
                tracing::warn!("so much is written that the store's history is shortened early: watches that come back may have to begin anew");
                before = upto;
            }
        }
    }
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd does not take our state");
    }
}

/// An error and what it comes from, as one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        said = format!("{said}: {error}");
        source = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expected, Write};

    #[tokio::test]
    async fn a_store_with_an_authority_and_no_objects_is_lost_and_one_that_begins_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store: AnyStore = Embedded::open(&dir.path().join("store")).unwrap().into();
        let write = async |key: &str, value: Option<&str>, expected| {
            let value = value.map(|value| value.as_bytes().to_vec());
            store.write(Write { key: key.into(), value, expected }).await.unwrap()
        };
        assert!(!is_lost(&store).await.unwrap());
        let object = write("/registry/core/namespaces/default", Some("{}"), Expected::Absent).await;
        assert!(!is_lost(&store).await.unwrap(), "a first start that was ended early");
        write(keep::KEY, Some("a"), Expected::Absent).await;
        assert!(!is_lost(&store).await.unwrap());
        write("/registry/core/namespaces/default", None, Expected::At(object)).await;
        assert!(is_lost(&store).await.unwrap());
    }

    #[test]
    fn only_what_leaves_the_machine_without_tls_is_in_clear() {
        for (url, clear) in [
            ("https://10.0.0.1:2379", false),
            ("http://10.0.0.1:2379", true),
            ("http://etcd.example.org", true),
            ("http://127.0.0.1:2379/", false),
            ("http://localhost:2379", false),
            ("http://[::1]:2379", false),
            ("http://[2001:db8::1]:2379", true),
        ] {
            assert_eq!(is_in_clear(url), clear, "{url}");
        }
    }
}
