//! Who we are at a registry: the entries of a docker config.json or of a pod's imagePullSecrets, and which of them are for which host and
//! repository.

use std::fmt;

/// One entry of a docker config: for whom, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `host`, `host:port`, `host/path`, `*.host`; a scheme and `/v1/`, `/v2/` after the host count for nothing, as in the kubelet.
    pub key: String,
    pub login: Login,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    Basic {
        user: String,
        password: Secret,
    },
    /// docker's `identitytoken`: a refresh token for the registry's token service.
    Identity(Secret),
    /// docker's `registrytoken`: sent to the registry as it is.
    Bearer(Secret),
}

/// Text that no log and no error shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one header that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A docker config that cannot be read. Says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(String);

impl Credential {
    /// The entries of a `.dockerconfigjson` (`{"auths": {…}}`) or of the older `.dockercfg` (the inner object alone): what Secrets of the
    /// types kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg carry. Helpers named in it are not run: a Secret names no programs.
    pub fn from_docker_config(text: &[u8]) -> Result<Vec<Credential>, CredentialError> {
        let _ = text;
        Err(CredentialError(String::new()))
    }
}
