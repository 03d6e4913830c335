//! Variables out of files that other containers of the pod have written to an emptyDir (`valueFrom.fileKeyRef`).
//!
//! Driven by `containers`, at each creation. The files are containers' to change at any time: they are opened beneath their volume,
//! without links, and only as regular files.

use std::io::{self, Read as _};
use std::path::Path;

use nix::errno::Errno;
use pod::content::Hidden;
use pod::env_file;
use pod::spec::{Container, EnvValue, EnvVar};

use super::snapshots::open_beneath;
use crate::seams::CreateRun;

/// Of one file; hundreds of variables fit.
const BYTES_MAX: u64 = 64 * 1024;

/// The container with the values of its files; None: it has none of that kind. Err says which cannot be had and why. Blocking.
pub fn resolved(run: &CreateRun<'_>) -> Option<impl FnOnce() -> Result<Container, String> + Send + 'static> {
    let is_file = |var: &EnvVar| matches!(var.value, EnvValue::File { .. });
    if !run.container.env.iter().any(is_file) {
        return None;
    }
    let (container, volumes) = (run.container.clone(), run.sandbox.volumes.clone());
    Some(move || {
        let mut resolved = Container { env: Vec::with_capacity(container.env.len()), ..container.clone() };
        for var in &container.env {
            let EnvValue::File { volume, path, key, optional } = &var.value else {
                resolved.env.push(var.clone());
                continue;
            };
            let value = match volumes.get(volume) {
                Some(place) => read(place, path, key),
                None => Err("the volume was not set up".into()),
            };
            let value = value.map_err(|why| format!("env {}: {path} in volume {volume}: {why}", var.name))?;
            match value {
                Some(value) => {
                    let value = EnvValue::Known(Hidden::new(value.into_bytes()));
                    resolved.env.push(EnvVar { name: var.name.clone(), value });
                }
                None if *optional => {}
                None => return Err(format!("env {}: {path} in volume {volume} has no {key}", var.name)),
            }
        }
        Ok(resolved)
    })
}

/// None: there is no such file, or nothing of this key in it.
fn read(volume: &Path, path: &str, key: &str) -> Result<Option<String>, String> {
    let file = match open_beneath(volume, path) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EINVAL) => return Err("is no regular file".into()),
        Err(Errno::ELOOP | Errno::EXDEV) => return Err("is reached by a link, which is not followed".into()),
        Err(errno) => return Err(errno.to_string()),
    };
    let mut text = String::new();
    match file.take(BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > BYTES_MAX => return Err(format!("has more than {BYTES_MAX} bytes")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err("is no UTF-8 text".into()),
        Err(error) => return Err(error.to_string()),
    }
    let value = env_file::find(&text, key).map_err(|malformed| malformed.to_string())?;
    match value {
        Some(value) if value.contains('\0') => Err(format!("has a NUL character in {key}")),
        value => Ok(value.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_beneath_the_volume_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("a")).unwrap();
        std::fs::write(dir.path().join("secret"), "K='outside'").unwrap();
        std::fs::write(volume.join("a/env"), "K='v'").unwrap();
        std::fs::write(volume.join("large"), "#".repeat(70_000)).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("..", volume.join("way")).unwrap();
        nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = |path: &str| read(&volume, path, "K");
        assert_eq!(read("a/env"), Ok(Some("v".into())));
        assert_eq!(read("none"), Ok(None));
        for (path, why) in [
            ("link", "no regular file"),
            ("way/secret", "link"),
            ("fifo", "no regular file"),
            ("a", "no regular file"),
            ("large", "more than"),
        ] {
            assert!(read(path).is_err_and(|error| error.contains(why)), "{path}: {:?}", read(path));
        }
    }
}
