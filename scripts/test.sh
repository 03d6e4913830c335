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
# Tests that cannot prove anything here write a line into this file (tests/src/skip.rs).
DAEMONLET_TEST_SKIPS=$top/target/test-skips
export DAEMONLET_TEST_SKIPS
: >"$DAEMONLET_TEST_SKIPS"
skips() { wc -l <"$DAEMONLET_TEST_SKIPS"; }

suite() {
    name=$1
    shift
    echo "== $name"
    began=$(date +%s)
    skips_before=$(skips)
    if "$@"; then outcome=passed; else
        outcome=FAILED
        failed="$failed $name"
    fi
    skipped=$(($(skips) - skips_before))
    [ "$skipped" = 0 ] && said= || said=", $skipped of its tests skipped"
    summary="$summary$(printf '%-28s %-7s %5d s%s' "$name" "$outcome" $(($(date +%s) - began)) "$said")
"
}

# nextest gives each test a process and a bound of its own (.config/nextest.toml); cargo test does as well where nextest is missing.
# Always the whole workspace: for one package alone cargo would choose other features of its dependencies and build them again.
if cargo nextest --version >/dev/null 2>&1; then
    units() { cargo nextest run --workspace --lib --bins --no-fail-fast --status-level fail; }
    integration() { cargo nextest run --workspace --test "$1" --no-fail-fast --status-level slow; }
    black_box() { cargo nextest run --workspace --test "$1" --no-fail-fast --status-level slow --test-threads "$NODE_THREADS"; }
else
    echo "test: cargo-nextest is not installed, using cargo test"
    units() { cargo test --quiet --workspace --lib --bins; }
    integration() { cargo test --quiet --workspace --test "$1"; }
    black_box() { cargo test --quiet --workspace --test "$1" -- --test-threads "$NODE_THREADS"; }
fi

# --one SUITE: that black-box suite alone, for the loop below and for whoever works on one.
if [ "${1:-}" = --one ]; then
    black_box "$2"
    exit
fi

suite build cargo build --quiet --workspace --all-targets
[ -z "$failed" ] || { echo "test: the build failed" >&2; exit 1; }

suite units units
# Each integration test of a crate is a suite; the simulation is one of the agent's, with its own fixed seeds.
for file in pod/tests/* keeper/tests/* agent/tests/*; do
    case $file in
    *.rs) name=$(basename "$file" .rs) ;;
    *)
        [ -f "$file/main.rs" ] || continue
        name=$(basename "$file")
        ;;
    esac
    suite "${file%%/*}-$name" integration "$name"
done
DAEMONLET_TEST_DOCKER_BIN=$(scripts/docker.sh)
export DAEMONLET_TEST_DOCKER_BIN
# The other versions of containerd that are in use, oldest first. Without the network there are none, and that is said.
others=$(scripts/containerds.sh)
DAEMONLET_TEST_CONTAINERDS=$(printf '%s' "$others" | tr '\n' ':')
export DAEMONLET_TEST_CONTAINERDS
# Everything under tests/tests is a suite, so that a new one cannot be forgotten here.
for file in tests/tests/*.rs; do
    suite "$(basename "$file" .rs)" black_box "$(basename "$file" .rs)"
done
# The same suites against each of the others: about a minute and a half a version. The upgrade has gone through all of them already.
for bin in $others; do
    version=$("$bin/containerd" --version | cut -d ' ' -f 3)
    for file in tests/tests/node_*.rs; do
        name=$(basename "$file" .rs)
        [ "$name" = node_upgrade ] || suite "$name-$version" env DAEMONLET_TEST_CONTAINERD_BIN="$bin" "$0" --one "$name"
    done
done
suite machine scripts/machine.sh --short

printf '\n%s%-36s %5d s\n' "$summary" "all suites" $(($(date +%s) - began_all))
if [ "$(skips)" != 0 ]; then
    echo "skipped: $(skips) tests"
    sed 's/^/  /' "$DAEMONLET_TEST_SKIPS"
fi
[ -z "$failed" ] || { echo "test: FAILED:$failed" >&2; exit 1; }
