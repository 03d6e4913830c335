//! The fleet's door is [`Joining`].

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{Certificate, Door, Inner, Later, Refusal};
use crate::door::authority::Signed;
use crate::door::join::{JoinError, Joining, KEYS, nobodys};
use crate::store::{Store as _, StoreError, Watch as _};

/// How soon a watch that broke is begun anew.
const AGAIN: Duration = Duration::from_secs(1);

impl Door for Joining {
    fn admits(&self, from: IpAddr) -> Result<(), Refusal> {
        Joining::admits(self, from).map_err(refusal)
    }

    fn join<'a>(
        &'a self,
        from: IpAddr,
        token: &'a str,
        node: &'a str,
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>> {
        Box::pin(async move {
            let signed = Joining::join(self, from, token, node, request).await.map_err(refusal)?;
            Ok(certificate(&signed, self.authority().certificate_pem()))
        })
    }

    fn renew<'a>(
        &'a self,
        shown: &'a [CertificateDer<'static>],
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>> {
        Box::pin(async move {
            let signed = Joining::renew(self, shown, request).await.map_err(refusal)?;
            Ok(certificate(&signed, self.authority().certificate_pem()))
        })
    }

    fn node<'a>(&'a self, shown: &'a [CertificateDer<'static>]) -> Later<'a, Result<String, Refusal>> {
        Box::pin(async move {
            let node = Joining::node(self, shown).await.map_err(refusal)?;
            match node.is_expired {
                true => Err(refusal(JoinError::Ended(node.name))),
                false => Ok(node.name),
            }
        })
    }
}

/// Ends the sessions of nodes that are thrown out, wherever that was asked for. For ever.
pub async fn end_revoked(inner: &Inner) {
    let mut after = None;
    loop {
        if let Err(error) = follow_revocations(inner, &mut after).await {
            tracing::warn!(%error, "revocations cannot be followed; tried again");
            if matches!(error, StoreError::Compacted { .. } | StoreError::Future { .. }) {
                after = None;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_revocations(inner: &Inner, after: &mut Option<u64>) -> Result<(), StoreError> {
    let store = inner.objects.store();
    let from = match *after {
        Some(from) => from,
        None => {
            // What was before it nobody tells any more: those who are in session are looked at.
            let from = store.get(KEYS).await?.revision;
            let nodes: Vec<String> = inner.sessions().keys().cloned().collect();
            for node in nodes {
                if store.get(&format!("{KEYS}{node}")).await?.entry.as_ref().and_then(nobodys).is_some() {
                    inner.end(&node);
                }
            }
            from
        }
    };
    let mut changes = store.watch(KEYS, from).await?;
    loop {
        let batch = changes.next().await?;
        let now = batch.changes.iter().filter_map(|change| change.now.as_ref());
        now.filter_map(nobodys).for_each(|node| inner.end(node));
        *after = Some(batch.revision);
    }
}

fn certificate(signed: &Signed, authority: &str) -> Certificate {
    Certificate { chain: signed.chain_pem.clone(), authority: authority.to_owned() }
}

fn refusal(error: JoinError) -> Refusal {
    let said = error.to_string();
    match error {
        JoinError::TooMany(_) | JoinError::Coming(_) => Refusal::TooMany(said),
        JoinError::Store(_) | JoinError::NoRandomness(_) => Refusal::Failed(said),
        _ => Refusal::Denied(said),
    }
}
