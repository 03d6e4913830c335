//! Which requests go through an HTTP proxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go programs (containerd, kubelet) read them. Pure
//! but for [`Proxy::from_environment`].

use std::net::IpAddr;

use url::Url;

use super::hosts::is_loopback;

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

/// A variable that names no proxy. Its value is not shown: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is neither host:port nor an http:// or https:// URL")]
pub struct ProxyError(&'static str);

/// Parsed once: what a client asks for each request.
#[derive(Clone)]
pub struct Routes {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

/// One entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    Network {
        address: IpAddr,
        bits: u8,
    },
    Address {
        address: IpAddr,
        port: Option<u16>,
    },
    /// `suffix` begins with a dot; `itself`: the name without the dot counts too.
    Name {
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxy {
    /// As this process' environment has them; upper case before lower case.
    pub fn from_environment() -> Proxy {
        Proxy::from(|name| std::env::var(name).ok())
    }

    /// As a process' environment has them (/proc/PID/environ).
    pub fn from_environ(environ: &[u8]) -> Proxy {
        let text = String::from_utf8_lossy(environ);
        let value = |name: &str| {
            text.split('\0').find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        Proxy::from(value)
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Proxy {
        let of = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            names.iter().find_map(|n| variable(n).filter(|value| !value.trim().is_empty()))
        };
        Proxy { http: of("HTTP_PROXY"), https: of("HTTPS_PROXY"), direct: of("NO_PROXY") }
    }

    pub fn routes(&self) -> Result<Routes, ProxyError> {
        let parse =
            |value: &Option<String>, name| value.as_deref().map(|v| url_of(v).ok_or(ProxyError(name))).transpose();
        Ok(Routes {
            http: parse(&self.http, "HTTP_PROXY")?,
            https: parse(&self.https, "HTTPS_PROXY")?,
            direct: self.direct.iter().flat_map(|list| list.split(',')).filter_map(Direct::parse).collect(),
        })
    }
}

impl Routes {
    /// The proxy for this URL; none: directly. This machine itself is always asked directly.
    pub fn of(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { self.https.as_ref() } else { self.http.as_ref() };
        let port = url.port_or_known_default();
        let host =
            url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        if is_loopback(url) || self.direct.iter().any(|direct| direct.matches(&host, port)) {
            return None;
        }
        proxy.cloned()
    }
}

impl Direct {
    fn parse(entry: &str) -> Option<Direct> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Direct::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= width(address))?;
            return Some(Direct::Network { address, bits });
        }
        let bare = entry.trim_matches(['[', ']']);
        if let Ok(address) = bare.parse() {
            return Some(Direct::Address { address, port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Some(Direct::Address { address, port });
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        match host.strip_prefix('.') {
            _ if host.is_empty() => None,
            Some(name) => Some(Direct::Name { suffix: format!(".{name}"), itself: false, port }),
            None => Some(Direct::Name { suffix: format!(".{host}"), itself: true, port }),
        }
    }

    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        let at = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        match self {
            Direct::All => true,
            Direct::Network { address: network, bits } => address.is_some_and(|a| same_network(a, *network, *bits)),
            Direct::Address { address: wanted, port } => address == Some(*wanted) && at(port),
            Direct::Name { suffix, itself, port } => {
                address.is_none() && at(port) && (host.ends_with(suffix) || *itself && host == &suffix[1..])
            }
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    a.is_ipv4() == b.is_ipv4() && number(a) & mask == number(b) & mask
}

fn url_of(value: &str) -> Option<Url> {
    let value = value.trim();
    let whole = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(direct: &str) -> Routes {
        let proxy = Proxy {
            http: Some("plain:3128".to_owned()),
            https: Some("https://u:p@tls:443".to_owned()),
            direct: Some(direct.to_owned()),
        };
        proxy.routes().unwrap()
    }

    #[track_caller]
    fn check(direct: &str, url: &str, proxied: bool) {
        assert_eq!(routes(direct).of(&Url::parse(url).unwrap()).is_some(), proxied, "NO_PROXY={direct} {url}");
    }

    #[test]
    fn the_scheme_chooses_the_proxy() {
        let of = |url: &str| routes("").of(&Url::parse(url).unwrap()).unwrap().to_string();
        assert_eq!(of("http://r.example/"), "http://plain:3128/");
        assert_eq!(of("https://r.example/"), "https://u:p@tls/");
    }

    #[test]
    fn what_no_proxy_names_is_asked_directly() {
        check("r.example", "https://r.example", false);
        check("r.example", "https://deep.r.example", false);
        check("r.example", "https://other.example", true);
        check("r.example", "https://notr.example", true);
        check(".r.example", "https://r.example", true);
        check(".r.example, x", "https://deep.r.example", false);
        check("*.r.example", "https://deep.r.example", false);
        check("R.EXAMPLE", "https://r.example", false);
        check("r.example:5000", "https://r.example:5000", false);
        check("r.example:5000", "https://r.example", true);
        check("r.example:443", "https://r.example", false);
        check("10.0.0.0/8", "https://10.1.2.3:5000", false);
        check("10.0.0.0/8", "https://11.1.2.3", true);
        check("10.0.0.0/8", "https://r10.example", true);
        check("10.1.2.3", "https://10.1.2.3", false);
        check("10.1.2.3:1", "https://10.1.2.3", true);
        check("2001:db8::/32", "https://[2001:db8::1]", false);
        check("[2001:db8::1]:5000", "https://[2001:db8::1]:5000", false);
        check("0.0.0.0/0", "https://10.0.0.1", false);
        check("0.0.0.0/0", "https://[2001:db8::1]", true);
        check("*", "https://r.example", false);
        check(",,10.0.0.0/99,:x", "https://r.example", true);
    }

    #[test]
    fn this_machine_is_never_asked_through_a_proxy() {
        for url in ["http://localhost:5000", "http://127.0.0.1:5000", "https://[::1]:5000"] {
            check("", url, false);
        }
    }

    #[test]
    fn a_variable_in_upper_case_wins_and_an_empty_one_is_unset() {
        let proxy = Proxy::from(|name| match name {
            "HTTP_PROXY" => Some("a:1".to_owned()),
            "http_proxy" | "https_proxy" => Some("b:1".to_owned()),
            "HTTPS_PROXY" => Some(String::new()),
            _ => None,
        });
        assert_eq!((proxy.http.as_deref(), proxy.https.as_deref(), proxy.direct), (Some("a:1"), Some("b:1"), None));
    }

    #[test]
    fn a_broken_variable_is_named_without_its_value() {
        let proxy = Proxy { https: Some("socks5://u:hunter2@x".to_owned()), ..Proxy::default() };
        let error = proxy.routes().err().unwrap().to_string();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{proxy:?}").contains("hunter2"));
    }
}
