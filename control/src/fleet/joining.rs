//! The fleet's door is [`Joining`].

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use super::{Certificate, Door, Later, Refusal};
use crate::door::authority::Signed;
use crate::door::join::{JoinError, Joining};

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

fn certificate(signed: &Signed, authority: &str) -> Certificate {
    Certificate { chain: signed.chain_pem.clone(), authority: authority.to_owned() }
}

fn refusal(error: JoinError) -> Refusal {
    let said = error.to_string();
    match error {
        JoinError::TooMany(_) => Refusal::TooMany(said),
        JoinError::Store(_) | JoinError::NoRandomness(_) => Refusal::Failed(said),
        _ => Refusal::Denied(said),
    }
}
