//! Namespaces of a pod that has users of its own (`hostUsers: false`): the other namespaces have to be made by a process in the pod's
//! user namespace to be that one's, and a process with threads, as the agent is, cannot make a user namespace.
//!
//! Started by the agent for some milliseconds, before the pod has a container; part of this program only because this one is small.
//! What it makes the agent pins through `/proc`.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, sethostname, setresgid, setresuid};

/// What the namespaces are to be like.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    pub hostname: String,
    /// Names with dots, and values.
    pub sysctls: Vec<(String, String)>,
}

impl Wanted {
    /// `HOSTNAME [NAME=VALUE…]`. None: something else.
    pub fn parse(words: &[String]) -> Option<Wanted> {
        let (hostname, sysctls) = words.split_first()?;
        let pair = |word: &String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Wanted { hostname: hostname.clone(), sysctls: sysctls.iter().map(pair).collect::<Option<_>>()? })
    }
}

/// Says `users` when it has users of its own, which the agent then maps and answers; says `made` when all is made, and stays until
/// the agent has pinned it and goes.
pub fn make(wanted: &Wanted) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    writeln!(io::stdout(), "users")?;
    if io::stdin().read(&mut [0])? == 0 {
        return Ok(());
    }
    // As the pod's root, whose the values of its namespaces are.
    let (group, user) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    sethostname(&wanted.hostname)?;
    for (name, value) in &wanted.sysctls {
        let set = || {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
        };
        set().map_err(|error| io::Error::new(error.kind(), format!("the sysctl {name} to {value:?}: {error}")))?;
    }
    writeln!(io::stdout(), "made")?;
    io::stdin().read(&mut [0]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let wanted = Wanted::parse(&words("web net.ipv4.ip_local_port_range=1\t2 kernel.shm_rmid_forced=1")).unwrap();
        assert_eq!(wanted.hostname, "web");
        assert_eq!(wanted.sysctls[1], ("kernel.shm_rmid_forced".into(), "1".into()));
        assert_eq!(Wanted::parse(&words("web x")), None);
        assert_eq!(Wanted::parse(&[]), None);
    }
}
