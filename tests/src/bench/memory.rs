//! What processes cost, as /proc shows it. Memory in MB (10^6 bytes), processor time in seconds.

use std::fs;

use crate::process::Process;

/// Proportional set size.
pub fn pss(process: Process) -> f64 {
    rollup(process, &["Pss:"])
}

/// The part of [`pss`] that is no file's.
pub fn anonymous(process: Process) -> f64 {
    rollup(process, &["Pss_Anon:"])
}

/// Memory that is this process's alone: what its end would give back.
pub fn private(process: Process) -> f64 {
    rollup(process, &["Private_Clean:", "Private_Dirty:"])
}

/// The sum of these lines of /proc/PID/smaps_rollup.
fn rollup(process: Process, keys: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap_or_default();
    let kilobytes = |key: &&str| {
        text.lines().find_map(|line| line.strip_prefix(*key)?.split_whitespace().next()?.parse::<f64>().ok())
    };
    keys.iter().map(|key| kilobytes(key).unwrap_or(f64::NAN)).sum::<f64>() * 1024.0 / 1e6
}

/// Resident memory now.
pub fn resident(process: Process) -> f64 {
    status(process, "VmRSS")
}

/// Highest resident memory since the process began, or since [`forget_peak`].
pub fn peak(process: Process) -> f64 {
    status(process, "VmHWM")
}

fn status(process: Process, field: &str) -> f64 {
    let kilobytes = process.status(field).and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// From now on the peak counts anew (proc_pid_clear_refs(5), value 5).
pub fn forget_peak(process: Process) {
    fs::write(format!("/proc/{}/clear_refs", process.pid), "5").expect("root may reset the peak of an own process");
}

/// User and system time.
pub fn processor_seconds(process: Process) -> f64 {
    // In ticks of 10 ms (proc_pid_stat(5), fields 14 and 15), threads that have ended included.
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
