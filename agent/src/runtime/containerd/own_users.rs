//! Whether pods can have users of their own here (`hostUsers: false`).
//!
//! Asked by the Runtime verbs in `mod` before such a pod is set up, and by `doctor`. It takes a kernel that maps the ids of volumes in
//! memory too, a containerd that maps those of images, and an OCI runtime that maps those of mounts. One that cannot may ignore what it
//! is asked for, and would leave the container without its files or with another's: so each is asked what it knows.

use containerd_client::services::v1::PluginsRequest;

use super::classes::OciRuntime;
use super::client::{Client, QUICK, bounded, causes};
use super::recursion::{self, version};

/// Since then file systems in memory can be mounted with mapped ids (Kubernetes asks for the same).
const KERNEL_MIN: (u32, u32) = (6, 3);
/// A snapshotter's word for mapping an image's ids without a copy.
const REMAPS: &str = "remap-ids";

/// Err: why not.
pub async fn possible(client: &Client, snapshotter: &str, runtime: &OciRuntime) -> Result<(), String> {
    kernel(&release()?)?;
    snapshots(client, snapshotter).await?;
    let Some(program) = runtime.program() else {
        return Err(format!("the runtime {} cannot be asked what it knows", runtime.name));
    };
    by_program(&recursion::features(program).await?)
        .map_err(|()| format!("{} cannot mount volumes with mapped ids; runc can from 1.2 on", program.display()))
}

fn release() -> Result<String, String> {
    let release = nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned());
    release.map_err(|error| format!("this kernel's version is not known: {error}"))
}

fn kernel(release: &str) -> Result<(), String> {
    match version(release) {
        Some(version) if version >= KERNEL_MIN => Ok(()),
        _ => Err(format!("this kernel ({release}) is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1)),
    }
}

async fn snapshots(client: &Client, snapshotter: &str) -> Result<(), String> {
    let filters = vec![format!("type==io.containerd.snapshotter.v1,id=={snapshotter}")];
    let asked = bounded(QUICK, client.introspection().plugins(client.request(PluginsRequest { filters }))).await;
    let plugins = asked.map_err(|status| format!("containerd does not say what it can: {}", causes(&status)))?.plugins;
    let can = plugins.iter().any(|plugin| plugin.capabilities.iter().any(|word| word == REMAPS));
    if can { Ok(()) } else { Err(format!("this containerd's {snapshotter} cannot map the ids of images; 2.0 can")) }
}

/// OCI runtime-spec features-linux.md, `mountExtensions`.
fn by_program(features: &serde_json::Value) -> Result<(), ()> {
    let known = features.pointer("/linux/mountExtensions/idmap/enabled") == Some(&serde_json::Value::Bool(true));
    known.then_some(()).ok_or(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_old_kernel_and_a_runtime_that_does_not_say_so_are_not_enough() {
        assert_eq!(kernel("6.3.0"), Ok(()));
        assert!(kernel("6.1.0-41-cloud-amd64").unwrap_err().contains("older than 6.3"));
        assert!(kernel("odd").is_err());
        assert_eq!(by_program(&json!({"linux": {"mountExtensions": {"idmap": {"enabled": true}}}})), Ok(()));
        assert_eq!(by_program(&json!({"linux": {"mountExtensions": {"idmap": {"enabled": false}}}})), Err(()));
        assert_eq!(by_program(&json!({"linux": {}})), Err(()));
    }
}
