#!/bin/sh
# `make fuzz`: every parser that reads what others wrote, led by coverage (cargo-fuzz over libFuzzer), each for SECONDS_EACH.
# TARGETS="pods patch" are some of them (the directories of fuzz/corpus). What is found lies under target/fuzz/artifacts/TARGET: put it into
# fuzz/corpus/TARGET under a name that says what it is, and `make test` has it from then on.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

CARGO_FUZZ_VERSION=0.13.2
each=${SECONDS_EACH:-60}
targets=${TARGETS:-$(ls fuzz/corpus)}

scripts/setup.sh build fuzz
if [ ! -x target/tools/bin/cargo-fuzz ]; then
    echo "fuzz: building cargo-fuzz $CARGO_FUZZ_VERSION into target/tools"
    cargo install --quiet --locked --version "$CARGO_FUZZ_VERSION" --root target/tools --target-dir target/tools-build cargo-fuzz
    rm -rf target/tools-build
fi
PATH=$PWD/target/tools/bin:$PATH
# The program is made for its coverage: optimising it as a whole would take minutes and hide where it went. No sanitizer, which only a
# nightly compiler has: this project has no unsafe code, and what is looked for is panics, memory, time and broken promises.
export CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_STRIP=none
guided() {
    cargo fuzz "$@"
}
echo "fuzz: building"
guided build --fuzz-dir fuzz --target-dir target/fuzz/build --sanitizer none --features guided guided
failed=
for target in $targets; do
    [ -d "fuzz/corpus/$target" ] || die "there is no target $target: see fuzz/corpus"
    work=target/fuzz/corpus/$target
    found=target/fuzz/artifacts/$target
    mkdir -p "$work" "$found"
    echo "fuzz: $target for $each s"
    # What is new goes to the first directory, and never into the tree.
    if ! FUZZ_TARGET=$target guided run --fuzz-dir fuzz --target-dir target/fuzz/build --sanitizer none --features guided guided \
        "$work" "fuzz/corpus/$target" -- -max_total_time="$each" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$found/" >"target/fuzz/$target.log" 2>&1; then
        failed="$failed $target"
        echo "fuzz: $target FAILED: target/fuzz/$target.log, the input under $found" >&2
        tail -n 25 "target/fuzz/$target.log" >&2
    fi
    grep -E '^stat::number_of_executed_units|^stat::new_units_added|cov: ' "target/fuzz/$target.log" | tail -n 3 || true
done
[ -z "$failed" ] || die "found something in:$failed"
