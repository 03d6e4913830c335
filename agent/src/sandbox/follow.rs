//! Following the node's own network: its addresses, and what its files say of names.
//!
//! Spawned by the composition root. The daemons start in a boot without a network too; what they and the status were told then
//! is put right when it comes. rtnetlink(7) tells of addresses and routes. The files are looked at afterwards, and slowly in
//! between: an inotify watch on /etc would wake us for every program that opens a file there.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use pod::record::Record;
use pod::spec::PodTemplate;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{NodeSandboxes, blocking, files};
use crate::readable;

/// The safety net.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long after a change is looked: an interface comes up in several steps, and resolv.conf is written by one who hears of
/// the address as we do.
const LOOKS_AFTER: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(3), Duration::from_secs(12)];
/// RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR and RTMGRP_IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// One message of the kernel's fits; what it says is not read.
const MESSAGE_BYTES: usize = 8192;
/// Messages taken in one go.
const MESSAGES_MAX: usize = 1024;

/// Calls `found` with the node's addresses now and whenever they are others, and keeps the resolv.conf of `pods` true, for ever.
/// Pods of before are known once `adopted` has ended.
pub async fn follow(
    sandboxes: NodeSandboxes,
    adopted: impl Future<Output = ()>,
    pods: impl Fn() -> Vec<(Record, Arc<PodTemplate>)>,
    mut found: impl FnMut(&[IpAddr]),
) {
    let changes = Changes::listen();
    let (mut addresses, mut names) = (None, None);
    let mut adopted = std::pin::pin!(adopted);
    let mut all_known = false;
    // The looks that are still due after the last change.
    let mut due: Vec<Duration> = Vec::new();
    loop {
        let seen = sandboxes.look_at_node_ips();
        if addresses.as_ref() != Some(&seen) {
            found(&seen);
            addresses = Some(seen);
        }
        let said = files::node_names(&sandboxes.shared.config.node_files);
        if names.as_ref() != Some(&said) {
            sandboxes.rename(pods()).await;
            names = Some(said);
        }
        let wait = due.pop().unwrap_or(LOOK_AGAIN);
        tokio::select! {
            // All only wait: nothing is lost when another wins.
            () = sandboxes.shared.node_addresses.changed() => {}
            () = changes.wait() => {
                due = LOOKS_AFTER.into_iter().rev().collect();
                let soon = due.pop().unwrap_or(LOOK_AGAIN);
                tokio::time::sleep(soon).await;
                changes.take();
            }
            () = &mut adopted, if !all_known => {
                // What changed while no agent looked.
                (all_known, names) = (true, None);
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl NodeSandboxes {
    /// Writes the resolv.conf of each pod again whose source says something else by now.
    async fn rename(&self, pods: Vec<(Record, Arc<PodTemplate>)>) {
        let shared = self.shared.clone();
        blocking(move || {
            for (record, template) in pods {
                let (pod_dir, spec) = (shared.pod_dir(&record.uid), &template.spec);
                // One that is not set up yet will be with what is true then.
                if !pod_dir.join("made").exists() {
                    continue;
                }
                let of_node = (&shared.config.node_files, &shared.config.cluster);
                let namespace = &record.workload.namespace;
                match files::write_names(&pod_dir, &spec.naming, spec.host_network, namespace, of_node) {
                    Ok(false) => {}
                    Ok(true) => tracing::info!(pod = record.name, "resolv.conf follows the node's"),
                    Err(error) => {
                        tracing::warn!(pod = record.name, error = super::chain(&error), "resolv.conf stays as it was");
                    }
                }
            }
        })
        .await;
    }
}

/// A socket on which the kernel tells of changes; without one there is the slow look alone.
struct Changes(Option<AsyncFd<OwnedFd>>);

impl Changes {
    fn listen() -> Changes {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listening = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
            .and_then(|socket| bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).map(|()| socket))
            .map_err(std::io::Error::from)
            .and_then(readable::watch);
        match listening {
            Ok(socket) => Changes(Some(socket)),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not tell of changed addresses: they are looked at from time to time");
                Changes(None)
            }
        }
    }

    /// Until something has changed. Cancel-safe.
    async fn wait(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        // An error can only mean that the loop is ending.
        if socket.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Everything told so far is taken for known.
    fn take(&self) {
        let Some(socket) = &self.0 else { return };
        let mut message = [0u8; MESSAGE_BYTES];
        // The error that there is no more is what makes the next wait one.
        let _ = socket.try_io(Interest::READABLE, |socket| {
            for _ in 0..MESSAGES_MAX {
                match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                    // ENOBUFS: more was said than there was room for, which is as good.
                    Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
    }
}
