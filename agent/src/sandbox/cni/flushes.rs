//! The kernel's news of packet rules that went (nf_tables, nfnetlink): somebody flushed them, and ours may be among them.
//!
//! Driven by `sandbox::watch`. Costs nothing while nobody changes rules. The kernel tells of nf_tables only, which is
//! what iptables uses on Debian; who uses the older tables waits for the slow look.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

use crate::readable;

/// NFNLGRP_NFTABLES as a bit.
const RULES_GROUP: u32 = 1 << 6;
/// NFNL_SUBSYS_NFTABLES in the upper byte, and NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE.
const TABLE_GONE: u16 = 0xa02;
const CHAIN_GONE: u16 = 0xa05;
const RULE_GONE: u16 = 0xa08;
/// NFTA_CHAIN_NAME and NFTA_RULE_CHAIN.
const CHAIN_NAME: u16 = 3;
const CHAIN_OF_RULE: u16 = 2;
/// struct nlmsghdr and struct nfgenmsg.
const HEADERS_BYTES: usize = 20;
/// Messages that are read without a pause.
const NEWS_AT_ONCE_MAX: usize = 64;
/// What the kernel puts into one answer at most.
const NEWS_MAX_BYTES: usize = 16 * 1024;
/// Chains in which rules of ours and of our plugins stand, beside the plugins' own.
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const OF_PLUGINS: &str = "CNI-";

/// See the top of the file.
#[derive(Debug)]
pub struct Flushes {
    news: AsyncFd<OwnedFd>,
}

impl Flushes {
    /// In the calling thread's network namespace; within a tokio runtime.
    pub fn open() -> io::Result<Flushes> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RULES_GROUP))?;
        Ok(Flushes { news: readable::watch(socket)? })
    }

    /// Until a rule or chain has gone that may concern us. Cancel-safe: what is not read stays in the socket.
    pub async fn next(&self) {
        let mut bytes = vec![0; NEWS_MAX_BYTES];
        loop {
            let Ok(mut ready) = self.news.readable().await else { return std::future::pending().await };
            let (mut concern, mut emptied) = (false, false);
            for _ in 0..NEWS_AT_ONCE_MAX {
                match recv(self.news.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                    Ok(0) | Err(Errno::EAGAIN) => emptied = true,
                    Ok(length) => concern |= concerns(&bytes[..length]),
                    // More was told than the socket holds.
                    Err(Errno::ENOBUFS) => concern = true,
                    Err(Errno::EINTR) => {}
                    // The socket tells nothing any more: the slow look alone goes on.
                    Err(_) => return std::future::pending().await,
                }
                if emptied {
                    ready.clear_ready();
                    break;
                }
            }
            drop(ready);
            if concern {
                return;
            }
            // Somebody else's rules come without an end: the rest of the agent has its turn in between.
            tokio::task::yield_now().await;
        }
    }
}

/// Whether one of the messages tells of something gone from a chain that may be ours.
fn concerns(mut bytes: &[u8]) -> bool {
    while let Some((kind, attributes, rest)) = message(bytes) {
        let chain = match kind {
            TABLE_GONE => return true,
            CHAIN_GONE => text(attributes, CHAIN_NAME),
            RULE_GONE => text(attributes, CHAIN_OF_RULE),
            _ => None,
        };
        if chain.is_some_and(|chain| CHAINS.contains(&chain) || chain.starts_with(OF_PLUGINS)) {
            return true;
        }
        bytes = rest;
    }
    false
}

/// The first message: its kind, its attributes, and the rest.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let attributes = bytes.get(HEADERS_BYTES..length)?;
    Some((kind, attributes, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The text of the first attribute of this kind.
fn text(mut attributes: &[u8], wanted: u16) -> Option<&str> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_from_our_chains_concerns_us() {
        let news = |kind: u16, attribute: u16, chain: &str| {
            let value = [chain.as_bytes(), &[0]].concat();
            let mut bytes = vec![0; HEADERS_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            for (kind, value) in [(1, b"nat\0".as_slice()), (attribute, &value)] {
                bytes.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(value);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        let added = 0xa06;
        assert!(concerns(&news(RULE_GONE, CHAIN_OF_RULE, "POSTROUTING")));
        assert!(concerns(&news(CHAIN_GONE, CHAIN_NAME, "CNI-HOSTPORT-DNAT")));
        assert!(concerns(&news(TABLE_GONE, 9, "")));
        assert!(!concerns(&news(RULE_GONE, CHAIN_OF_RULE, "KUBE-SERVICES")));
        assert!(!concerns(&news(added, CHAIN_OF_RULE, "POSTROUTING")));
        let two = [news(added, CHAIN_OF_RULE, "INPUT"), news(RULE_GONE, CHAIN_OF_RULE, "INPUT")].concat();
        assert!(concerns(&two));
        for end in 0..two.len() {
            // Cut off anywhere: no panic.
            let _ = concerns(&two[..end]);
        }
    }
}
