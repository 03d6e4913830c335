#!/bin/sh
# `make test`: every test of the project, suite by suite, each with its time, and a summary. A suite that fails does not keep the others
# from running. Needs root: the node suites start a containerd and make network namespaces.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
need_root test

# The node suites wait on runc and containerd more than they compute; each test has a node of its own, so three share two processors well.
NODE_THREADS=3

scripts/setup.sh test || exit 1
began_all=$(date +%s)
summary=
failed=

suite() {
    name=$1
    shift
    echo "== $name"
    began=$(date +%s)
    if "$@"; then outcome=passed; else
        outcome=FAILED
        failed="$failed $name"
    fi
    summary="$summary$(printf '%-16s %-7s %5d s' "$name" "$outcome" $(($(date +%s) - began)))
"
}

# nextest gives each test a process and a bound of its own (.config/nextest.toml); cargo test does as well where nextest is missing.
if cargo nextest --version >/dev/null 2>&1; then
    unit() { cargo nextest run --no-fail-fast --status-level fail --package "$@"; }
    black_box() { cargo nextest run --no-fail-fast --status-level slow --package tests --test "$1" --test-threads "$NODE_THREADS"; }
else
    echo "test: cargo-nextest is not installed, using cargo test"
    unit() { cargo test --quiet --package "$@"; }
    black_box() { cargo test --quiet --package tests --test "$1" -- --test-threads "$NODE_THREADS"; }
fi

suite build cargo build --quiet --workspace --all-targets
[ -z "$failed" ] || { echo "test: the build failed" >&2; exit 1; }

for package in pod keeper daemonlet; do
    suite "$package" unit "$package"
done
suite harness-units unit tests --lib --bins
# Everything under tests/tests is a suite, so that a new one cannot be forgotten here.
for file in tests/tests/*.rs; do
    suite "$(basename "$file" .rs)" black_box "$(basename "$file" .rs)"
done
if [ -x scripts/sim.sh ]; then
    suite sim scripts/sim.sh "${SEEDS:-100}"
fi
suite machine scripts/machine.sh --short

printf '\n%s%-24s %5d s\n' "$summary" "all suites" $(($(date +%s) - began_all))
[ -z "$failed" ] || { echo "test: FAILED:$failed" >&2; exit 1; }
