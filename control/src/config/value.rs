//! Values as people write them, in flags and in the configuration file alike.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum as _;
use pod::manifest::names;

use super::StoreName;

/// The longest duration: a century is a mistake.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// URLs with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Urls(pub Vec<String>);

/// `--api-advertise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// None: that of `--listen`.
    pub port: Option<u16>,
}

/// A path, made absolute before anything may change the working directory.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path is expected".into());
    }
    std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))
}

/// `:6443` is every address of the machine, of both families.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{text:?} is no address to listen on: 127.0.0.1:6443, [::1]:6443 or :6443");
    match text.strip_prefix(':') {
        Some(port) => port.parse().map(everywhere).map_err(|_| wrong()),
        None => text.parse().map_err(|_| wrong()),
    }
}

pub fn everywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// A DNS name or an address.
pub fn tls_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    names::dns_subdomain(&lower).map_or(Ok(lower), Err)
}

/// A name or an address, and perhaps a port: `lb.example`, `192.0.2.1:443`, `[2001:db8::1]:443`.
pub fn advertised(text: &str) -> Result<Advertised, String> {
    let wrong = |why: &str| format!("{text:?} is not HOST or HOST:PORT: {why}");
    let (host, port) = match text.parse::<IpAddr>() {
        Ok(_) => (text, None),
        Err(_) => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = tls_name(address.unwrap_or(host)).map_err(|why| wrong(&why))?;
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err(wrong("that is every address, and pods need one"));
    }
    let read = |port: &str| {
        port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("a port is a number from 1 to 65535"))
    };
    Ok(Advertised { host, port: port.map(read).transpose()? })
}

pub fn urls(text: &str) -> Result<Urls, String> {
    let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
    let is_url = |url: &String| {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
    };
    if urls.iter().all(is_url) {
        Ok(Urls(urls))
    } else {
        Err(format!("{text:?} is no list of URLs: https://a:2379,https://b:2379"))
    }
}

pub fn store(text: &str) -> Result<StoreName, String> {
    StoreName::from_str(text, false).map_err(|_| format!("{text:?} is no store: embedded or etcd"))
}

/// `90s`, `24h`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: whole numbers with h, m or s (90s, 24h, 1h30m)");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while let Some(end) = rest.find(|character: char| !character.is_ascii_digit()) {
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        total = total.saturating_add(Duration::from_secs(number.saturating_mul(unit)));
        rest = &rest[end + 1..];
    }
    if text.is_empty() || !rest.is_empty() || total > DURATION_MAX { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(listen(":6443").unwrap().to_string(), "[::]:6443");
        assert_eq!(listen("127.0.0.1:0").unwrap().port(), 0);
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(tls_name("Control.Example"), Ok("control.example".into()));
        assert_eq!(tls_name("2001:db8::1"), Ok("2001:db8::1".into()));
        for (text, host, port) in [
            ("Lb.example", "lb.example", None),
            ("192.0.2.1:443", "192.0.2.1", Some(443)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
        ] {
            assert_eq!(advertised(text), Ok(Advertised { host: host.into(), port }), "{text}");
        }
        for wrong in ["", ":443", "a:", "a:0", "a:65536", "https://a", "0.0.0.0:443", "a b"] {
            assert!(advertised(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "5", "h", "1d", "1h5", "-1s", "99999999999h", "1ä"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["6443", ":65536", "localhost:1", ""] {
            assert!(listen(wrong).is_err(), "{wrong:?}");
        }
        assert!(tls_name("a b").is_err() && urls("a:2379").is_err() && urls("").is_err() && path("").is_err());
    }
}
