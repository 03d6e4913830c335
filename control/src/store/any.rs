//! The store that the configuration names. Everything behind it uses this one type, so that nothing else is generic over stores.
//!
//! What waits for etcd is a box of its own: it has six kilobytes, which otherwise whoever waits for either store would have room for, several times
//! over, all the time that a node is in session.

use super::embedded::{self, Embedded, Growth};
use super::etcd::{self, Etcd};
use super::{Changes, Found, Page, Range, Store, StoreError, Watch, Write};

/// One of both stores. Cheap to clone.
#[derive(Debug, Clone)]
pub enum AnyStore {
    Embedded(Embedded),
    Etcd(Box<Etcd>),
}

/// A watch of either.
#[derive(Debug)]
pub enum AnyWatch {
    Embedded(embedded::Following),
    Etcd(Box<etcd::Following>),
}

impl From<Embedded> for AnyStore {
    fn from(store: Embedded) -> AnyStore {
        AnyStore::Embedded(store)
    }
}

impl From<Etcd> for AnyStore {
    fn from(store: Etcd) -> AnyStore {
        AnyStore::Etcd(Box::new(store))
    }
}

impl AnyStore {
    /// Waits until so much has been written since history was shortened last. For ever with etcd, which has a bound of its own.
    pub async fn grown(&self, growth: Growth) {
        match self {
            AnyStore::Embedded(store) => store.grown(growth).await,
            AnyStore::Etcd(_) => std::future::pending().await,
        }
    }
}

impl Store for AnyStore {
    type Watch = AnyWatch;

    async fn get(&self, key: &str) -> Result<Found, StoreError> {
        match self {
            AnyStore::Embedded(store) => store.get(key).await,
            AnyStore::Etcd(store) => Box::pin(store.get(key)).await,
        }
    }

    async fn list(&self, range: &Range) -> Result<Page, StoreError> {
        match self {
            AnyStore::Embedded(store) => store.list(range).await,
            AnyStore::Etcd(store) => Box::pin(store.list(range)).await,
        }
    }

    async fn write(&self, write: Write) -> Result<u64, StoreError> {
        match self {
            AnyStore::Embedded(store) => store.write(write).await,
            AnyStore::Etcd(store) => Box::pin(store.write(write)).await,
        }
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<AnyWatch, StoreError> {
        Ok(match self {
            AnyStore::Embedded(store) => AnyWatch::Embedded(store.watch(prefix, after).await?),
            AnyStore::Etcd(store) => AnyWatch::Etcd(Box::new(Box::pin(store.watch(prefix, after)).await?)),
        })
    }

    async fn compact(&self, upto: u64) -> Result<(), StoreError> {
        match self {
            AnyStore::Embedded(store) => store.compact(upto).await,
            AnyStore::Etcd(store) => Box::pin(store.compact(upto)).await,
        }
    }
}

impl Watch for AnyWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        match self {
            AnyWatch::Embedded(watch) => watch.next().await,
            AnyWatch::Etcd(watch) => Box::pin(watch.next()).await,
        }
    }
}
