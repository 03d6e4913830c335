//! Pods' cgroups as systemd slices: transient units over the system bus, where systemd owns the hierarchy.
//!
//! Driven by `cgroups`. The bus is connected to when the first slice is asked for. Facts about the interface:
//! org.freedesktop.systemd1(5); about property names: systemd.resource-control(5).

use std::path::Path;
use std::time::Duration;

use pod::name::Uid;
use pod::qos::{self, CPU_PERIOD_US, Class, weight};
use tokio::sync::OnceCell;
use zbus::Connection;
use zbus::Variant as Value;
use zbus::zvariant::DynamicType;

use super::{CgroupError, Limits, parent_of};

const DESTINATION: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// A slice starts in milliseconds; a node under load may need a while.
const STARTED_WITHIN: Duration = Duration::from_secs(10);
/// How often the hierarchy is looked at while a slice starts.
const LOOK_EVERY: Duration = Duration::from_millis(2);

type Properties<'a> = Vec<(&'a str, Value<'a>)>;

/// The connection to systemd, made when needed and kept.
#[derive(Debug, Default)]
pub struct Systemd {
    bus: OnceCell<Connection>,
}

impl Systemd {
    /// Starts the pod's slice (systemd makes its parents) and waits until its cgroup is at `place`.
    pub async fn start(
        &self,
        root: &str,
        uid: &Uid,
        limits: &Limits,
        version2: bool,
        place: &Path,
    ) -> Result<(), CgroupError> {
        let slice = pod_slice(root, limits.class, uid);
        let properties = properties(limits, version2);
        if place.exists() {
            return self.set(&slice, &properties).await;
        }
        let mut all: Properties<'_> = vec![
            ("Description", Value::from(format!("daemonlet pod {uid}"))),
            ("DefaultDependencies", Value::from(false)),
        ];
        all.extend(self::properties(limits, version2));
        match self.call("StartTransientUnit", &slice, &start_body(&slice, all)).await {
            // An earlier try got that far.
            Err(CgroupError::Systemd { source: zbus::Error::MethodError(name, ..), .. })
                if name.as_str() == "org.freedesktop.systemd1.UnitExists" =>
            {
                self.set(&slice, &properties).await?;
            }
            other => other?,
        }
        let appeared = async {
            while !place.exists() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let slow = |_| CgroupError::Slow { verb: "start", slice: slice.clone(), seconds: STARTED_WITHIN.as_secs() };
        tokio::time::timeout(STARTED_WITHIN, appeared).await.map_err(slow)
    }

    /// Moves a process into a scope of its own in the slice; the scope ends with it.
    pub async fn adopt(&self, slice: &str, uid: &Uid, pid: i32) -> Result<(), CgroupError> {
        let scope = format!("daemonlet-init-{uid}.scope");
        self.call("StartTransientUnit", &scope, &start_body(&scope, of_scope(slice, uid, pid))).await
    }

    /// Stops a slice; Ok when systemd does not know it.
    pub async fn stop(&self, slice: &str) -> Result<(), CgroupError> {
        match self.call("StopUnit", slice, &(slice, "replace")).await {
            Err(CgroupError::Systemd { source: zbus::Error::MethodError(name, ..), .. })
                if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// The weight of all Burstable pods together, once their parent is there.
    pub async fn set_burstable(&self, root: &str, shares: u64, version2: bool) -> Result<(), CgroupError> {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let whole = qos::shares(cpus.saturating_mul(1000));
        self.set(&class_slice(root, Class::Guaranteed), &[cpu(whole, version2)]).await?;
        for (class, shares) in [(Class::Burstable, shares), (Class::BestEffort, qos::SHARES_MIN)] {
            self.set(&class_slice(root, class), &[cpu(shares, version2)]).await?;
        }
        Ok(())
    }

    async fn set(&self, slice: &str, properties: &[(&str, Value<'_>)]) -> Result<(), CgroupError> {
        self.call("SetUnitProperties", slice, &set_body(slice, properties)).await
    }

    async fn call<B>(&self, method: &'static str, slice: &str, body: &B) -> Result<(), CgroupError>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        let verb = match method {
            "StartTransientUnit" => "start",
            "StopUnit" => "stop",
            _ => "set the properties of",
        };
        let failed = |source| CgroupError::Systemd { verb, slice: slice.to_owned(), source };
        let exchange = async {
            let bus = self.bus.get_or_try_init(Connection::system).await?;
            bus.call_method(Some(DESTINATION), OBJECT, Some(INTERFACE), method, body).await
        };
        let slow = |_| CgroupError::Slow { verb, slice: slice.to_owned(), seconds: STARTED_WITHIN.as_secs() };
        tokio::time::timeout(STARTED_WITHIN, exchange).await.map_err(slow)?.map_err(failed)?;
        Ok(())
    }
}

/// Name, mode, properties, auxiliary units.
fn start_body<'a>(slice: &'a str, properties: Properties<'a>) -> impl serde::Serialize + DynamicType + Sync {
    (slice, "replace", properties, Vec::<(&str, Properties<'_>)>::new())
}

/// Name, whether only until the next boot, properties.
fn set_body<'a>(slice: &'a str, properties: &'a [(&'a str, Value<'a>)]) -> impl serde::Serialize + DynamicType + Sync {
    (slice, true, properties)
}

/// `daemonlet.slice`, `daemonlet-burstable.slice`, `daemonlet-besteffort.slice`.
pub fn class_slice(root: &str, class: Class) -> String {
    match parent_of(class) {
        None => format!("{root}.slice"),
        Some(parent) => format!("{root}-{parent}.slice"),
    }
}

/// `daemonlet-burstable-pod<uid>.slice`: a dash in a slice's name means a parent, so the uid's become underscores.
pub fn pod_slice(root: &str, class: Class, uid: &Uid) -> String {
    let class = class_slice(root, class);
    format!("{}-pod{}.slice", class.trim_end_matches(".slice"), uid.0.replace('-', "_"))
}

/// The uid in a pod slice's name.
pub fn uid_of(slice: &str) -> Option<String> {
    let (_, uid) = slice.strip_suffix(".slice")?.rsplit_once("-pod")?;
    Some(uid.replace('_', "-"))
}

/// Where a slice's cgroup is in the hierarchy: `a-b.slice` lies in `a.slice`.
pub fn path_of(slice: &str) -> String {
    let name = slice.trim_end_matches(".slice");
    let ends = name.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("/{}.slice", &name[..end])).collect()
}

fn properties(limits: &Limits, version2: bool) -> Properties<'static> {
    let mut properties = vec![
        ("CPUAccounting", Value::from(true)),
        ("MemoryAccounting", Value::from(true)),
        ("TasksAccounting", Value::from(true)),
        cpu(limits.values.shares, version2),
    ];
    if let Some(quota) = limits.values.quota_us {
        let a_second = quota.saturating_mul(1_000_000 / CPU_PERIOD_US);
        properties.push(("CPUQuotaPerSecUSec", Value::from(a_second)));
    }
    if let Some(bytes) = limits.values.memory_max {
        properties.push((if version2 { "MemoryMax" } else { "MemoryLimit" }, Value::from(bytes)));
    }
    if let Some(pids) = limits.pids_max {
        properties.push(("TasksMax", Value::from(pids)));
    }
    properties
}

fn of_scope<'a>(slice: &str, uid: &Uid, pid: i32) -> Properties<'a> {
    vec![
        ("Description", Value::from(format!("daemonlet pod {uid}: its process namespace"))),
        ("Slice", Value::from(slice.to_owned())),
        ("PIDs", Value::from(vec![pid.unsigned_abs()])),
        ("DefaultDependencies", Value::from(false)),
        ("CollectMode", Value::from("inactive-or-failed")),
    ]
}

fn cpu(shares: u64, version2: bool) -> (&'static str, Value<'static>) {
    if version2 { ("CPUWeight", Value::from(weight(shares))) } else { ("CPUShares", Value::from(shares)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What org.freedesktop.systemd1(5) declares.
    #[test]
    fn calls_have_the_types_that_systemd_declares() {
        let limits = Limits {
            class: Class::Burstable,
            values: qos::Cgroup { shares: 102, quota_us: Some(50_000), memory_max: Some(32 << 20) },
            pids_max: Some(7),
            huge_pages: Default::default(),
        };
        let properties = properties(&limits, true);
        let find = |name: &str| properties.iter().find(|(n, _)| *n == name).map(|(_, v)| v.try_clone().unwrap());
        assert_eq!(find("CPUQuotaPerSecUSec"), Some(Value::from(500_000u64)));
        assert_eq!(find("MemoryMax"), Some(Value::from(33_554_432u64)));
        assert_eq!(find("TasksMax"), Some(Value::from(7u64)));
        assert_eq!(find("CPUWeight"), Some(Value::from(4u64)));
        assert_eq!(signature(&set_body("a.slice", &properties)), "sba(sv)");
        assert_eq!(signature(&start_body("a.slice", properties)), "ssa(sv)a(sa(sv))");
        let scope = of_scope("a.slice", &Uid("0a".into()), 7);
        assert_eq!(
            scope.iter().find(|(name, _)| *name == "PIDs").map(|(_, pids)| pids),
            Some(&Value::from(vec![7_u32]))
        );
        assert_eq!(signature(&start_body("a.scope", scope)), "ssa(sv)a(sa(sv))");
    }

    fn signature(body: &(impl serde::Serialize + DynamicType)) -> String {
        let message = zbus::Message::method_call(OBJECT, "Any").build(body).unwrap();
        message.body().signature().to_string_no_parens()
    }

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_says() {
        assert_eq!(path_of("daemonlet.slice"), "/daemonlet.slice");
        assert_eq!(
            path_of("daemonlet-burstable-pod0a_1b.slice"),
            "/daemonlet.slice/daemonlet-burstable.slice/daemonlet-burstable-pod0a_1b.slice"
        );
    }
}
