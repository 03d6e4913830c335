//! What the fleet is given of the other parts: who may come in (`door`), who is told of signs of life (`contacts`), and to whom it gives logs (`http`).
//! The parts do not know each other; this is the only place that knows them all.

use std::net::IpAddr;
use std::pin::Pin;

use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::contacts::Contacts;
use crate::door::authority::Signed;
use crate::door::join::{JoinError, Joining};
use crate::fleet::{self, Certificate, Fleet, Later, LogWanted, Refusal};
use crate::http::{LogOptions, LogStream, Logs};

/// Who may join, renew and have a session.
pub struct Door(pub Joining);

impl Door {
    fn certificate(&self, signed: Signed) -> Certificate {
        Certificate { chain: signed.chain_pem, authority: self.0.authority().certificate_pem().to_owned() }
    }
}

impl fleet::Door for Door {
    fn admits(&self, from: IpAddr) -> Result<(), Refusal> {
        self.0.admits(from).map_err(refusal)
    }

    fn join<'a>(
        &'a self,
        from: IpAddr,
        token: &'a str,
        node: &'a str,
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>> {
        Box::pin(async move {
            let signed = self.0.join(from, token, node, request).await.map_err(refusal)?;
            Ok(self.certificate(signed))
        })
    }

    fn renew<'a>(
        &'a self,
        shown: &'a [CertificateDer<'static>],
        request: &'a [u8],
    ) -> Later<'a, Result<Certificate, Refusal>> {
        Box::pin(async move {
            let signed = self.0.renew(shown, request).await.map_err(refusal)?;
            Ok(self.certificate(signed))
        })
    }

    fn node<'a>(&'a self, shown: &'a [CertificateDer<'static>]) -> Later<'a, Result<String, Refusal>> {
        Box::pin(async move {
            match self.0.node(shown).await.map_err(refusal)? {
                node if node.is_expired => Err(refusal(JoinError::Ended(node.name))),
                node => Ok(node.name),
            }
        })
    }
}

fn refusal(error: JoinError) -> Refusal {
    let said = super::chain(&error);
    match error {
        JoinError::TooMany(_) => Refusal::TooMany(said),
        JoinError::Store(_) | JoinError::NoRandomness(_) => Refusal::Failed(said),
        _ => Refusal::Denied(said),
    }
}

/// Who judges nodes by what is heard of them.
pub struct Witness(pub Contacts);

impl fleet::Witness for Witness {
    fn opened(&self, node: &str) {
        self.0.opened(node);
    }

    fn heard(&self, node: &str, failing: &str) {
        self.0.heard(node, failing);
    }

    fn closed(&self, node: &str) {
        self.0.closed(node);
    }

    fn advertised(&self, node: &str, address: Option<&str>) {
        self.0.advertised(node, address);
    }
}

/// Logs out of the nodes' sessions.
pub struct SessionLogs(pub Fleet);

impl Logs for SessionLogs {
    fn open<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        options: &'a LogOptions,
    ) -> Pin<Box<dyn Future<Output = Result<LogStream, ApiError>> + Send + 'a>> {
        let LogOptions { follow, previous, timestamps, tail, since, limit_bytes } = options.clone();
        let container = container.to_owned();
        let wanted = LogWanted { container, follow, previous, timestamps, tail, since, limit: limit_bytes };
        Box::pin(self.0.log(pod, wanted))
    }
}
