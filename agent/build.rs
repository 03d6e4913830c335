//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Most of what the loader has to do at a start is to add one number to each address in the program. Packed, the list of
    // them takes 20 kB instead of half a megabyte, all of which is read, and so stands in memory for as long as the agent runs.
    // glibc reads it from 2.36 (Debian 12) on.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // A profile's `strip` does not reach a package that has an opt-level of its own.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
