//! `stamp FILE NAME`: the container of the benchmark. Its first act is to read the clock; it appends `start NAME NANOSECONDS` to FILE,
//! waits for SIGTERM, appends `end NAME NANOSECONDS` and exits. Built static, so that nothing but the kernel comes before `main`.

use std::fs::File;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};

fn main() -> anyhow::Result<()> {
    let started = now();
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(name)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: stamp FILE NAME");
    };
    let mut stamps = File::options().append(true).create(true).open(file)?;
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    // One write a line, so that the lines of many containers do not mix.
    stamps.write_all(format!("start {name} {started}\n").as_bytes())?;
    signals.wait()?;
    stamps.write_all(format!("end {name} {}\n", now()).as_bytes())?;
    Ok(())
}

/// Nanoseconds on the clock that all processes of the machine share.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
