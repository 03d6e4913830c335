//! Names to addresses, in Rust: a static program has no resolver of the C library. It reads /etc/resolv.conf and /etc/hosts of the node;
//! a node without a resolv.conf has no names, and no foreign resolver is asked for it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Built at the first name, and again with each client, so that a changed resolv.conf counts after some minutes.
#[derive(Clone, Default)]
pub struct Names {
    resolver: Arc<OnceLock<TokioResolver>>,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.resolver()?.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

impl Names {
    /// The addresses of a host, each with this port; at least one.
    pub async fn addresses(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.resolver()?.lookup_ip(name).await.map_err(io::Error::other)?;
        let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(address, port)).collect();
        if addresses.is_empty() { Err(io::Error::other("no such host")) } else { Ok(addresses) }
    }

    fn resolver(&self) -> io::Result<&TokioResolver> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let unreadable = |error| io::Error::other(format!("/etc/resolv.conf cannot be used: {error}"));
        let mut builder = TokioResolver::builder_tokio().map_err(unreadable)?;
        // Both, and the client tries one family while the other is silent.
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(unreadable)?;
        Ok(self.resolver.get_or_init(|| resolver))
    }
}
