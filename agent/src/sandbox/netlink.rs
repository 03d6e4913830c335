//! Three requests to the kernel's network configuration (rtnetlink(7)) that need no program: a link up, a bridge made, a
//! link gone. They act in the network namespace of the calling thread. Driven by `namespaces` and `cni`.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, sendto, setsockopt, socket, sockopt::ReceiveTimeout};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
/// NLM_F_REQUEST | NLM_F_ACK.
const REQUEST_AND_ACK: u16 = 0x1 | 0x4;
/// NLM_F_CREATE | NLM_F_EXCL.
const CREATE_EXCLUSIVELY: u16 = 0x400 | 0x200;
/// IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINKINFO and in it IFLA_INFO_KIND.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const ERROR_MESSAGE: u16 = 2;
const LINK_UP: u32 = 0x1;
/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// The kernel answers at once; this only keeps a surprise from hanging a thread.
const ANSWER_WITHIN_SECONDS: i64 = 5;

/// Brings the loopback interface up: 127.0.0.1 and ::1 answer afterwards.
pub fn loopback_up() -> io::Result<()> {
    exchange(&request(NEW_LINK, 0, LOOPBACK_INDEX, LINK_UP, &[]))
}

/// Makes a bridge with this hardware address; Ok when there is a link of this name.
pub fn make_bridge(name: &str, hardware: [u8; 6]) -> io::Result<()> {
    if if_nametoindex(name).is_ok() {
        return Ok(());
    }
    let kind = attribute(INFO_KIND, b"bridge");
    let attributes = [
        attribute(LINK_NAME, &[name.as_bytes(), &[0]].concat()),
        attribute(LINK_ADDRESS, &hardware),
        attribute(LINK_INFO, &kind),
    ];
    match exchange(&request(NEW_LINK, CREATE_EXCLUSIVELY, 0, 0, &attributes.concat())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Deletes the link with this name; Ok when there is none.
pub fn delete_link(name: &str) -> io::Result<()> {
    match if_nametoindex(name) {
        Ok(index) => exchange(&request(DELETE_LINK, 0, index, 0, &[])),
        Err(_) => Ok(()),
    }
}

/// Sends one request and takes the kernel's verdict.
fn exchange(request: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&socket, ReceiveTimeout, &nix::sys::time::TimeVal::new(ANSWER_WITHIN_SECONDS, 0))?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match acknowledged(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel answered a netlink request with something else than a result")),
    }
}

/// struct nlmsghdr, then struct ifinfomsg with the wanted flags and the mask of those to change, then attributes.
fn request(kind: u16, more_flags: u16, index: u32, up: u32, attributes: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 32;
    let length = u32::try_from(HEADERS.saturating_add(attributes.len())).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADERS.saturating_add(attributes.len()));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST_AND_ACK | more_flags).to_ne_bytes());
    // Sequence number and port: one request a socket needs neither.
    bytes.extend([0; 8]);
    // Family AF_UNSPEC, padding, device type.
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend(up.to_ne_bytes());
    bytes.extend(up.to_ne_bytes());
    bytes.extend(attributes);
    bytes
}

/// struct rtattr with its value, filled up to a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The result in an NLMSG_ERROR answer: 0, or a negative error number.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == ERROR_MESSAGE).then_some(code)
}
