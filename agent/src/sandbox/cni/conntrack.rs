//! The kernel's memory of connections (ctnetlink): what still leads to a pod that is gone is forgotten.
//!
//! Driven by `cni` when a pod with ports of the node gives its address back. The plugin that maps ports takes its rules
//! away, and the kernel goes on sending a client's packets where the first of them went: a UDP client that keeps asking
//! keeps that path alive for ever and never reaches the successor.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, sendto, setsockopt, socket, sockopt::ReceiveTimeout};

/// NFNL_SUBSYS_CTNETLINK in the upper byte, and IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
/// NLM_F_REQUEST; with NLM_F_ACK; with NLM_F_DUMP.
const WITH_ACK: u16 = 0x1 | 0x4;
const ALL: u16 = 0x1 | 0x300;
const ERROR_MESSAGE: u16 = 2;
const LAST_MESSAGE: u16 = 3;
/// struct nlmsghdr and struct nfgenmsg.
const HEADER_BYTES: usize = 16;
const HEADERS_BYTES: usize = 20;
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE; in a tuple CTA_TUPLE_IP; in it CTA_IP_V4_SRC and CTA_IP_V6_SRC.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const ADDRESSES: u16 = 1;
const SOURCE_V4: u16 = 1;
const SOURCE_V6: u16 = 3;
/// NLA_TYPE_MASK: the upper bits of an attribute's kind say how it is written.
const KIND_MASK: u16 = 0x3fff;
/// What the kernel puts into one answer at most.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// Paths to one pod that are forgotten at once; the rest run out by themselves.
const PATHS_MAX: usize = 65_536;
/// The kernel answers at once; this only keeps a surprise from hanging a thread.
const ANSWER_WITHIN_SECONDS: i64 = 5;

/// Forgets every path to these addresses. A kernel that does not let us costs only clients that never pause.
pub async fn forget(addresses: Vec<IpAddr>) {
    if addresses.is_empty() {
        return;
    }
    match crate::sandbox::blocking(move || forget_now(&addresses)).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "paths to a pod that is gone are forgotten"),
        Err(error) => tracing::warn!(%error, "paths to a pod that is gone may stay for a while"),
    }
}

/// How many were forgotten.
fn forget_now(addresses: &[IpAddr]) -> io::Result<usize> {
    let mut count: usize = 0;
    for ipv4 in [true, false] {
        let of_family: Vec<IpAddr> = addresses.iter().copied().filter(|ip| ip.is_ipv4() == ipv4).collect();
        if of_family.is_empty() {
            continue;
        }
        // AF_INET and AF_INET6 of every kernel.
        let family = if ipv4 { 2 } else { 10 };
        let paths = paths_to(&of_family, family)?;
        let socket = open()?;
        for path in paths {
            // One that ran out meanwhile is an error of its own, and no loss.
            if exchange(&socket, &request(DELETE, WITH_ACK, family, &path)).is_ok() {
                count = count.saturating_add(1);
            }
        }
    }
    Ok(count)
}

/// What names each connection whose answers come from one of these addresses: its original direction, and its zone.
fn paths_to(addresses: &[IpAddr], family: u8) -> io::Result<Vec<Vec<u8>>> {
    let socket = open()?;
    send(&socket, &request(GET, ALL, family, &[]))?;
    let mut answer = vec![0; ANSWER_MAX_BYTES];
    let mut found = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let mut rest = &answer[..length];
        while let Some((kind, payload, after)) = message(rest) {
            match kind {
                LAST_MESSAGE => return Ok(found),
                ERROR_MESSAGE => return Err(verdict(payload).err().unwrap_or_else(|| io::Error::other("no answer"))),
                _ if found.len() < PATHS_MAX => found.extend(path(payload, addresses)),
                _ => {}
            }
            rest = after;
        }
    }
}

/// One connection's name, where its answers come from one of these.
fn path(payload: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let attributes = payload.get(HEADERS_BYTES - HEADER_BYTES..)?;
    let ends = value(value(attributes, REPLY)?, ADDRESSES)?;
    let v4 = value(ends, SOURCE_V4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let v6 = value(ends, SOURCE_V6).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let source = match (v4, v6) {
        (Some(bytes), _) => IpAddr::V4(Ipv4Addr::from(bytes)),
        (_, Some(bytes)) => IpAddr::V6(Ipv6Addr::from(bytes)),
        _ => return None,
    };
    if !addresses.contains(&source) {
        return None;
    }
    let zone = attribute(attributes, ZONE).unwrap_or_default();
    Some([attribute(attributes, ORIGINAL)?, zone].concat())
}

/// The value of the first attribute of this kind.
fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(attributes, kind)?.get(4..)
}

/// The first attribute of this kind (struct nlattr and its value), filled up to a multiple of four bytes where it is.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?) & KIND_MASK;
        if length < 4 {
            return None;
        }
        if found == kind {
            return attributes.get(..length);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The first message: its kind, what follows its header, and the rest.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER_BYTES..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, ReceiveTimeout, &nix::sys::time::TimeVal::new(ANSWER_WITHIN_SECONDS, 0))?;
    Ok(socket)
}

fn send(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Sends one request and takes the kernel's verdict.
fn exchange(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    send(socket, request)?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match message(&answer[..length]) {
        Some((ERROR_MESSAGE, payload, _)) => verdict(payload),
        _ => Err(io::Error::other("the kernel answered a netlink request with something else than a result")),
    }
}

/// The result in an NLMSG_ERROR answer: 0, or a negative error number.
fn verdict(payload: &[u8]) -> io::Result<()> {
    match payload.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}

/// struct nlmsghdr, struct nfgenmsg (family, version 0, resource 0), attributes.
fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS_BYTES.saturating_add(attributes.len())).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADERS_BYTES.saturating_add(attributes.len()));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: one request at a time needs neither.
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [u16::try_from(value.len() + 4).unwrap().to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn only_paths_whose_answers_come_from_the_address_are_named() {
        const NESTED: u16 = 0x8000;
        let tuple = |kind: u16, source: [u8; 4]| {
            let ends = written(ADDRESSES | NESTED, &written(SOURCE_V4, &source));
            written(kind | NESTED, &ends)
        };
        let payload = |from: [u8; 4]| [vec![2, 0, 0, 0], tuple(ORIGINAL, [9, 9, 9, 9]), tuple(REPLY, from)].concat();
        let gone: IpAddr = "198.18.0.7".parse().unwrap();
        assert_eq!(path(&payload([198, 18, 0, 7]), &[gone]), Some(tuple(ORIGINAL, [9, 9, 9, 9])));
        assert_eq!(path(&payload([198, 18, 0, 8]), &[gone]), None);
        let whole = payload([198, 18, 0, 7]);
        for end in 0..whole.len() {
            // Cut off anywhere: no panic.
            let _ = path(&whole[..end], &[gone]);
        }
    }
}
