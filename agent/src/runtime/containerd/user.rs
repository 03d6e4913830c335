//! Whom a container's first process runs as: the security context over the image's `USER`, names looked up in the
//! image's own /etc/passwd and /etc/group.
//!
//! Pure: the two files are handed in as text. They and `USER` are untrusted: ids above 2^31-1 are refused
//! (CVE-2024-40635: they wrap to negative numbers, and from there to root), lines that are malformed are skipped.

use pod::spec::{GroupsPolicy, Security};

/// Highest id that a container may run as.
const ID_MAX: u32 = i32::MAX as u32;

/// /etc/passwd and /etc/group of an image; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

/// OCI `process.user`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
    /// Sorted, the primary one included.
    pub groups: Vec<u32>,
}

/// Each becomes CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("container has runAsNonRoot and image will run as root; set runAsUser to another user than 0")]
    Root,
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root; set runAsUser"
    )]
    NotNumeric(String),
    #[error("the image's user {user:?} is not usable: {why}; set runAsUser and runAsGroup")]
    Unusable { user: String, why: String },
    #[error("the id {0} in the security context is above 2147483647")]
    TooLarge(u32),
}

/// Who runs. `image_user` is the image's `USER`: `user[:group]`, names or numbers.
pub fn run_as(security: &Security, image_user: &str, accounts: &Accounts) -> Result<RunAs, UserError> {
    let asked = [security.run_as_user, security.run_as_group];
    let too_large = asked.iter().flatten().chain(&security.supplemental_groups).find(|id| **id > ID_MAX);
    if let Some(id) = too_large {
        return Err(UserError::TooLarge(*id));
    }
    let (user, group) = match security.run_as_user {
        // The image's group belongs to the image's user.
        Some(_) => (String::new(), ""),
        None => {
            let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
            (user.to_owned(), group)
        }
    };
    let numeric = match security.run_as_user {
        Some(uid) => Some(uid),
        None if user.is_empty() => Some(0),
        None => numeric_id(&user).map_err(|why| unusable(image_user, why))?,
    };
    if security.run_as_non_root {
        match numeric {
            Some(0) => return Err(UserError::Root),
            None => return Err(UserError::NotNumeric(image_user.to_owned())),
            Some(_) => {}
        }
    }
    let entry = passwd(accounts).find(|entry| match numeric {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let uid = match (numeric, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => return Err(unusable(image_user, "the image's /etc/passwd does not have it".into())),
    };
    let gid = match security.run_as_group {
        Some(gid) => gid,
        None if group.is_empty() => entry.as_ref().map_or(0, |entry| entry.gid),
        None => match numeric_id(group).map_err(|why| unusable(image_user, why))? {
            Some(gid) => gid,
            None => groups(accounts)
                .find(|line| line.name == group)
                .map(|line| line.gid)
                .ok_or_else(|| unusable(image_user, "the image's /etc/group does not have its group".into()))?,
        },
    };
    let mut all = vec![gid];
    all.extend(&security.supplemental_groups);
    if let (Some(entry), GroupsPolicy::Merge) = (&entry, security.groups_policy) {
        all.extend(groups(accounts).filter(|line| line.members.contains(&entry.name)).map(|line| line.gid));
    }
    all.sort_unstable();
    all.dedup();
    Ok(RunAs { uid, gid, groups: all })
}

fn unusable(user: &str, why: String) -> UserError {
    UserError::Unusable { user: user.to_owned(), why }
}

/// None for a name. Err for a number that may not be used.
fn numeric_id(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(format!("the id {text} is above {ID_MAX}")),
    }
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

/// `name:password:uid:gid:comment:home:shell`, passwd(5).
fn passwd(accounts: &Accounts) -> impl Iterator<Item = PasswdLine<'_>> {
    accounts.passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = numeric_id(fields.nth(1)?).ok()??;
        let gid = numeric_id(fields.next()?).ok()??;
        Some(PasswdLine { name, uid, gid })
    })
}

/// `name:password:gid:members`, group(5).
fn groups(accounts: &Accounts) -> impl Iterator<Item = GroupLine<'_>> {
    accounts.group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = numeric_id(fields.nth(1)?).ok()??;
        Some(GroupLine { name, gid, members: fields.next().unwrap_or("").split(',').collect() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:100:101::/srv/app:/bin/sh\nwrap:x:4294967295:0::/:/\n"
                    .into(),
            group: "root:x:0:root\nwheel:x:10:root,app\napp:x:101:\nlogs:x:55:other\n".into(),
        }
    }

    fn check(security: Security, image_user: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        run_as(&security, image_user, &accounts()).map(|it| (it.uid, it.gid, it.groups))
    }

    #[test]
    fn names_numbers_and_groups_come_from_the_image() {
        let plain = Security::default;
        assert_eq!(check(plain(), ""), Ok((0, 0, vec![0, 10])));
        assert_eq!(check(plain(), "app"), Ok((100, 101, vec![10, 101])));
        assert_eq!(check(plain(), "100"), Ok((100, 101, vec![10, 101])));
        assert_eq!(check(plain(), "app:logs"), Ok((100, 55, vec![10, 55])));
        assert_eq!(check(plain(), "7:8"), Ok((7, 8, vec![8])));
    }

    #[test]
    fn security_context_wins_over_the_image() {
        let security = Security {
            run_as_user: Some(100),
            run_as_group: Some(5),
            supplemental_groups: vec![77],
            ..Security::default()
        };
        assert_eq!(check(security, "root:root"), Ok((100, 5, vec![5, 10, 77])));
    }

    #[test]
    fn strict_groups_are_those_of_the_pod_alone() {
        let strict = |security: Security| Security { groups_policy: GroupsPolicy::Strict, ..security };
        assert_eq!(check(strict(Security::default()), "app"), Ok((100, 101, vec![101])));
        let security = Security { run_as_user: Some(100), supplemental_groups: vec![77], ..Security::default() };
        assert_eq!(check(strict(security), ""), Ok((100, 101, vec![77, 101])));
    }

    #[test]
    fn root_is_refused_where_non_root_is_asked() {
        let non_root = || Security { run_as_non_root: true, ..Security::default() };
        assert_eq!(check(non_root(), ""), Err(UserError::Root));
        assert_eq!(check(non_root(), "0"), Err(UserError::Root));
        assert_eq!(check(non_root(), "app"), Err(UserError::NotNumeric("app".into())));
        assert_eq!(check(non_root(), "100"), Ok((100, 101, vec![10, 101])));
        assert_eq!(check(Security { run_as_user: Some(0), ..non_root() }, "100"), Err(UserError::Root));
    }

    #[test]
    fn ids_that_wrap_are_refused() {
        for user in ["2147483648", "4294967296", "99999999999999999999", "0:4294967295"] {
            assert!(matches!(check(Security::default(), user), Err(UserError::Unusable { .. })), "{user}");
        }
        assert!(matches!(check(Security::default(), "wrap"), Err(UserError::Unusable { .. })));
        let security = Security { run_as_user: Some(1 << 31), ..Security::default() };
        assert_eq!(check(security, ""), Err(UserError::TooLarge(1 << 31)));
    }
}
