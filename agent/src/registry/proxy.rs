//! Which requests go through an HTTP proxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go programs (containerd, kubelet) read them. Pure
//! but for [`Proxy::from_environment`].

/// The three variables; empty counts as unset.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// For `http://`: a URL, or `host:port`. May carry `user:password@`, which is never shown.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are asked directly: names with their subdomains, addresses, networks, `*`, each with an optional port.
    pub direct: Option<String>,
}

impl Proxy {
    /// As this process' environment has them; upper case before lower case.
    pub fn from_environment() -> Proxy {
        Proxy::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Proxy {
        let of = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .iter()
                .find_map(|n| variable(n))
                .filter(|value| !value.trim().is_empty())
        };
        Proxy { http: of("HTTP_PROXY"), https: of("HTTPS_PROXY"), direct: of("NO_PROXY") }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("direct", &self.direct)
            .finish()
    }
}
