//! One target (`FUZZ_TARGET`), led by coverage: what `make fuzz` runs under cargo-fuzz. Not built by anything else.

#![no_main]

use std::sync::OnceLock;

use fuzz::{ALL, Target, examine};
use libfuzzer_sys::fuzz_target;

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let named = ALL.iter().find(|target| target.name == name);
        named.unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}: name one of fuzz/corpus"))
    })
}

fuzz_target!(|input: &[u8]| {
    if input.len() <= target().input_max
        && let Err(why) = examine(target(), input)
    {
        panic!("{}: {why}", target().name);
    }
});
