//! A seccomp profile of the node's own (`Localhost`): a file, read and made into the OCI runtime spec's form.
//!
//! Driven by `containers` ([`read`]) and `oci` ([`profile`]). The format is Docker's, of which the one that CRI takes is a part:
//! rules may depend on the architecture, the kernel and the container's capabilities. Whoever writes a profile may err, and an
//! error must never make the container less confined than was meant: what is not understood is refused, by its name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::super::capabilities::CapSet;

/// Docker's own default profile has 15 kB.
const FILE_BYTES_MAX: u64 = 128 << 10;
/// The longest name of a system call has 28 letters.
const NAME_MAX: usize = 64;
/// System calls have at most six arguments.
const ARGUMENTS_MAX: usize = 6;
/// Bytes of a reason: it goes into a status.
const REASON_MAX: usize = 400;
/// The kernel gives up on a path whose directories are moved while it looks, and asks to be asked again.
const TRIES_MAX: u32 = 128;

/// What the rules of a profile may depend on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The container's.
    pub capabilities: CapSet,
    /// `std::env::consts::ARCH`.
    pub architecture: &'static str,
    /// Major and minor version.
    pub kernel: (u32, u32),
}

/// The file at `path` below `directory`; links in it may not lead out of it. Err: why there is none. Blocking.
pub fn read(directory: &Path, path: &str) -> Result<Vec<u8>, String> {
    let shown = directory.display();
    let opened = open(directory, path).map_err(|errno| match errno {
        Errno::ENOENT => format!("there is no such file in {shown}; put it there"),
        Errno::EXDEV => format!("it leads out of {shown}; a link in it must not"),
        errno => format!("it cannot be opened in {shown}: {}", io::Error::from(errno)),
    })?;
    let failed = |error: io::Error| format!("it cannot be read in {shown}: {error}");
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(format!("in {shown} it is no regular file"));
    }
    let mut content = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(content)
}

fn open(directory: &Path, path: &str) -> nix::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(AT_FDCWD, directory, flags, Mode::empty())?;
    let how = OpenHow::new()
        // A pipe would hold us until somebody writes.
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut tries = 0;
    loop {
        match openat2(&root, path, how) {
            Err(Errno::EAGAIN) if tries < TRIES_MAX => tries += 1,
            opened => return opened.map(File::from),
        }
    }
}

/// The profile for a container under these circumstances. Err: what is wrong with it, in one short sentence.
pub fn profile(file: &[u8], circumstances: &Circumstances) -> Result<LinuxSeccomp, String> {
    translated(file, circumstances).map_err(|reason| {
        // Names in it are the file's.
        let mut reason = reason.replace(char::is_control, "?");
        let cut = (0..=REASON_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
        reason.truncate(cut.unwrap_or(0));
        reason
    })
}

fn translated(file: &[u8], circumstances: &Circumstances) -> Result<LinuxSeccomp, String> {
    let written: Profile = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let mut syscalls = Vec::new();
    for (index, rule) in written.syscalls.unwrap_or_default().into_iter().enumerate() {
        let names = rule.names().map_err(|why| format!("syscalls[{index}]: {why}"))?;
        let includes = rule.includes.unwrap_or_default().all(circumstances);
        let excludes = rule.excludes.unwrap_or_default().any(circumstances);
        let counts = includes.and_then(|includes| Ok(includes && !excludes?));
        if !counts.map_err(|why| format!("syscalls[{index}]: {why}"))? {
            continue;
        }
        let action = without_listener(rule.action)?;
        let args = rule.args.unwrap_or_default();
        if args.len() > ARGUMENTS_MAX || args.iter().any(|arg| arg.index >= ARGUMENTS_MAX) {
            return Err(format!("syscalls[{index}]: a system call has at most {ARGUMENTS_MAX} arguments"));
        }
        let args = args.into_iter().map(Arg::made).collect::<Result<Vec<_>, _>>();
        let args = args.map_err(|why| format!("syscalls[{index}]: {why}"))?;
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(action)
            .set_errno_ret(rule.errno_ret)
            .set_args((!args.is_empty()).then_some(args));
        syscalls.push(syscall);
    }
    if written.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(LISTENER.to_owned());
    }
    let listed = written.architectures.unwrap_or_default();
    let architectures = match written.arch_map.unwrap_or_default() {
        map if map.is_empty() => listed,
        _ if !listed.is_empty() => return Err("has both architectures and archMap: drop one of the two".to_owned()),
        map => of_map(map, circumstances.architecture),
    };
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(without_listener(written.default_action)?)
        .set_default_errno_ret(written.default_errno_ret)
        .set_architectures((!architectures.is_empty()).then_some(architectures))
        .set_flags(written.flags.filter(|flags| !flags.is_empty()))
        .set_listener_path(None)
        .set_listener_metadata(None)
        .set_syscalls(Some(syscalls));
    Ok(profile)
}

const LISTENER: &str = "SCMP_ACT_NOTIFY and listenerPath are not supported: nobody would answer the container";

fn without_listener(action: LinuxSeccompAction) -> Result<LinuxSeccompAction, String> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(LISTENER.to_owned()),
        action => Ok(action),
    }
}

/// The machine's own architecture and those that it runs beside it; empty: libseccomp takes the native one.
fn of_map(map: Vec<ArchMap>, architecture: &str) -> Vec<Arch> {
    let Some((_, native)) = native(architecture) else { return Vec::new() };
    let own = map.into_iter().find(|entry| entry.architecture == native);
    own.map(|entry| [vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat())
        .unwrap_or_default()
}

/// Docker's name of an architecture, and libseccomp's.
fn native(architecture: &str) -> Option<(&'static str, Arch)> {
    Some(match architecture {
        "x86_64" => ("amd64", Arch::ScmpArchX86_64),
        "aarch64" => ("arm64", Arch::ScmpArchAarch64),
        "x86" => ("x86", Arch::ScmpArchX86),
        "arm" => ("arm", Arch::ScmpArchArm),
        "powerpc64" => ("ppc64le", Arch::ScmpArchPpc64le),
        "s390x" => ("s390x", Arch::ScmpArchS390x),
        "riscv64" => ("riscv64", Arch::ScmpArchRiscv64),
        "loongarch64" => ("loong64", Arch::ScmpArchLoongarch64),
        _ => return None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Option<Vec<String>>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

/// oci-spec's own type passes over what it does not know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

impl Arg {
    fn made(self) -> Result<LinuxSeccompArg, String> {
        if self.op == LinuxSeccompOperator::ScmpCmpMaskedEq && self.value_two.is_none() {
            return Err("SCMP_CMP_MASKED_EQ needs valueTwo, what the masked argument is compared with".to_owned());
        }
        let mut arg = LinuxSeccompArgBuilder::default().index(self.index).value(self.value).op(self.op);
        if let Some(second) = self.value_two {
            arg = arg.value_two(second);
        }
        arg.build().map_err(|error| error.to_string())
    }
}

impl Rule {
    fn names(&self) -> Result<Vec<String>, String> {
        let names = match (self.names.clone().unwrap_or_default(), self.name.clone().filter(|name| !name.is_empty())) {
            (names, Some(_)) if !names.is_empty() => return Err("has both names and name: drop one of the two".into()),
            (_, Some(name)) => vec![name],
            (names, None) => names,
        };
        let known = |name: &String| {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            plain && !name.is_empty() && name.len() <= NAME_MAX
        };
        match names.iter().find(|name| !known(name)) {
            Some(name) => Err(format!("{name:?} is no name of a system call")),
            None if names.is_empty() => Err("names no system call".into()),
            None => Ok(names),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Filter {
    /// As `includes`: whether all of its parts hold.
    fn all(&self, circumstances: &Circumstances) -> Result<bool, String> {
        Ok(self.parts(circumstances)?.iter().all(|part| part.iter().all(|held| *held))
            && self.arch(circumstances) != Some(false))
    }

    /// As `excludes`: whether any of its parts holds.
    fn any(&self, circumstances: &Circumstances) -> Result<bool, String> {
        Ok(self.parts(circumstances)?.iter().any(|part| part.iter().any(|held| *held))
            || self.arch(circumstances) == Some(true))
    }

    /// Whether the machine's architecture is listed; None: none is.
    fn arch(&self, circumstances: &Circumstances) -> Option<bool> {
        let own = native(circumstances.architecture).map(|(name, _)| name);
        let listed = self.arches.as_ref().filter(|all| !all.is_empty())?;
        Some(listed.iter().any(|name| Some(name.as_str()) == own))
    }

    /// Which capabilities are there, and whether the kernel is new enough.
    fn parts(&self, circumstances: &Circumstances) -> Result<[Vec<bool>; 2], String> {
        let capability = |name: &String| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            let one = CapSet::of(&[name]).map_err(|_| format!("{name:?} is no capability"))?;
            Ok(circumstances.capabilities.and(one) == one)
        };
        let kernel = |text: &String| {
            let least = version(text).ok_or_else(|| format!("{text:?} is no kernel's version"))?;
            Ok(circumstances.kernel >= least)
        };
        let capabilities = self.caps.iter().flatten().map(capability).collect::<Result<_, String>>()?;
        let kernel = self.min_kernel.iter().filter(|text| !text.is_empty()).map(kernel);
        Ok([capabilities, kernel.collect::<Result<_, String>>()?])
    }
}

/// `4.8` or `6.1.0-18-amd64`: major and minor.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str) -> Result<serde_json::Value, String> {
        let circumstances = Circumstances {
            capabilities: CapSet::of(&["SYS_TIME"]).expect("known"),
            architecture: "x86_64",
            kernel: (6, 1),
        };
        profile(file.as_bytes(), &circumstances).map(|it| serde_json::to_value(it).expect("serializes"))
    }

    #[test]
    fn the_plain_form_arrives_as_it_is() {
        let made = check(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null},
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
                 "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        );
        let expected = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
                 "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}],
        });
        assert_eq!(made, Ok(expected));
    }

    #[test]
    fn rules_depend_on_capabilities_architecture_and_kernel() {
        let counts = |filter: &str| {
            let file = format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"name": "stime", "action": "SCMP_ACT_ALLOW", {filter}}}]}}"#
            );
            check(&file).expect("good")["syscalls"].as_array().expect("a list").len() == 1
        };
        for filter in [
            r#""comment": "none""#,
            r#""includes": {}"#,
            r#""includes": {"caps": ["CAP_SYS_TIME"], "arches": ["arm64", "amd64"], "minKernel": "4.8"}"#,
            r#""excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["arm64"], "minKernel": "6.2"}"#,
        ] {
            assert!(counts(filter), "{filter}");
        }
        for filter in [
            r#""includes": {"caps": ["CAP_SYS_TIME", "CAP_SYS_ADMIN"]}"#,
            r#""includes": {"arches": ["arm64"]}"#,
            r#""includes": {"minKernel": "6.2"}"#,
            r#""excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYS_TIME"]}"#,
            r#""excludes": {"arches": ["amd64"]}"#,
            r#""excludes": {"minKernel": "6.1"}"#,
        ] {
            assert!(!counts(filter), "{filter}");
        }
        let map = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]}"#;
        let made = check(map).expect("good");
        assert_eq!(made["architectures"], serde_json::json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        let allow = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{{rule}}}]}}"#);
        for (file, reason) in [
            ("", "EOF"),
            ("[]", "invalid"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "not supported"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}"#, "not supported"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#, "sycalls"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"], "archMap": [{"architecture": "SCMP_ARCH_ARM"}]}"#,
                "both",
            ),
            (&allow(r#""action": "SCMP_ACT_ALLOW""#), "names no system call"),
            (&allow(r#""names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW""#), "both"),
            (&allow(r#""names": ["read\u0000"], "action": "SCMP_ACT_ALLOW""#), "no name of a system call"),
            (&allow(r#""name": "a", "action": "SCMP_ACT_ALLOW", "include": {"caps": ["CAP_SYS_TIME"]}"#), "include"),
            (&allow(r#""name": "a", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_FLY"]}"#), "FLY"),
            (&allow(r#""name": "a", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}"#), "version"),
            (
                &allow(
                    r#""name": "a", "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#,
                ),
                "at most 6",
            ),
            (
                &allow(
                    r#""name": "a", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "valueTow": 2, "op": "SCMP_CMP_MASKED_EQ"}]"#,
                ),
                "valueTow",
            ),
            (
                &allow(
                    r#""name": "a", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_MASKED_EQ"}]"#,
                ),
                "needs valueTwo",
            ),
        ] {
            let refused = check(file).expect_err(file);
            assert!(refused.contains(reason), "{file}: {refused}");
        }
        let long = format!(r#"{{"defaultAction": "{}"}}"#, "ä".repeat(10_000));
        assert!(check(&long).expect_err("unknown").len() <= REASON_MAX);
    }

    #[test]
    fn only_a_regular_file_below_the_directory_is_read() {
        let place = tempfile::tempdir().expect("made");
        let dir = place.path().join("seccomp");
        std::fs::create_dir_all(dir.join("profiles")).expect("made");
        std::fs::write(place.path().join("outside.json"), "{}").expect("written");
        std::fs::write(dir.join("profiles/a.json"), "{}").expect("written");
        std::os::unix::fs::symlink("profiles/a.json", dir.join("link.json")).expect("linked");
        std::os::unix::fs::symlink("../outside.json", dir.join("out.json")).expect("linked");
        std::os::unix::fs::symlink(place.path().join("outside.json"), dir.join("absolute.json")).expect("linked");
        nix::unistd::mkfifo(&dir.join("pipe"), Mode::S_IRUSR).expect("made");
        std::fs::write(dir.join("large.json"), vec![b' '; 200 << 10]).expect("written");
        assert_eq!(read(&dir, "profiles/a.json"), Ok(b"{}".to_vec()));
        assert_eq!(read(&dir, "link.json"), Ok(b"{}".to_vec()));
        for (path, reason) in [
            ("out.json", "leads out"),
            ("absolute.json", "leads out"),
            ("../outside.json", "leads out"),
            ("missing.json", "no such file"),
            ("pipe", "no regular file"),
            ("profiles", "no regular file"),
            ("large.json", "more than"),
        ] {
            let refused = read(&dir, path).expect_err(path);
            assert!(refused.contains(reason), "{path}: {refused}");
        }
        assert!(read(&place.path().join("nowhere"), "a.json").expect_err("absent").contains("no such file"));
    }
}
