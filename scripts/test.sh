#!/bin/sh
# `make test`: every test of the project, suite by suite, each with its time, and a summary. A suite that fails does not keep the others
# from running. Needs root: the node suites start a containerd and make network namespaces.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/lib.sh
need_root test

# The node suites wait on runc, containerd and grace periods far more than they compute: six at once keep two processors about busy. Each test
# has a node of its own (namespaces, containerd, directories), so they do not meet.
NODE_THREADS=6
# So do the crates' own suites, though less; the simulation and the units compute.
CRATE_THREADS=3

scripts/setup.sh test || exit 1
began_all=$(date +%s)
summary=
failed=
# Tests that cannot prove anything here write a line into this file (tests/src/skip.rs).
DAEMONLET_TEST_SKIPS=$top/target/test-skips
export DAEMONLET_TEST_SKIPS
: >"$DAEMONLET_TEST_SKIPS"
skips() { wc -l <"$DAEMONLET_TEST_SKIPS"; }

add() {
    summary="$summary$1
"
}

# step NAME COMMAND…: one line of the summary with the time that passed. Returns whether the command succeeded.
step() {
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
    add "$(printf '%-34s %-7s %5d s%s' "$name" "$outcome" $(($(date +%s) - began)) "$said")"
    [ "$outcome" = passed ]
}

# nextest gives each test a process and a bound of its own, and runs the tests of many suites side by side (.config/nextest.toml); cargo test
# goes suite by suite where nextest is missing. Always the whole workspace: for one package alone cargo would choose other features of its
# dependencies and build them again.
if cargo nextest --version >/dev/null 2>&1; then
    # group NAME THREADS EXPRESSION: the suites that nextest's filter expression names, and a line for each with its tests' seconds, which
    # add up to more than the group's because they run side by side.
    group() {
        report=target/nextest/default/junit.xml
        rm -f "$report"
        step "$1" cargo nextest run --workspace --no-fail-fast --status-level slow --test-threads "$2" -E "$3"
        [ ! -f "$report" ] || add "$(awk '
            /<testcase / {
                match($0, /classname="[^"]*"/); suite = substr($0, RSTART + 11, RLENGTH - 12)
                match($0, / time="[^"]*"/); seconds[suite] += substr($0, RSTART + 7, RLENGTH - 8)
                tests[suite]++
            }
            END { for (suite in tests) printf "  %-40s %5d tests, %4d s\n", suite, tests[suite], seconds[suite] | "sort" }' "$report")"
    }
    crates() { group crates "$CRATE_THREADS" 'not package(tests) or kind(lib) or kind(bin)'; }
    nodes() { group nodes "$NODE_THREADS" 'package(tests) & kind(test)'; }
    # The upgrade has gone through all versions already.
    nodes_on() { group "nodes, containerd $1" "$NODE_THREADS" 'package(tests) & binary(/^node_/) - binary(node_upgrade)'; }
else
    echo "test: cargo-nextest is not installed, using cargo test"
    crates() {
        step units cargo test --quiet --workspace --lib --bins
        for file in */tests/*; do
            case $file in
            tests/*) continue ;;
            *.rs) name=$(basename "$file" .rs) ;;
            *)
                [ -f "$file/main.rs" ] || continue
                name=$(basename "$file")
                ;;
            esac
            step "${file%%/*}-$name" cargo test --quiet --workspace --test "$name"
        done
    }
    nodes() {
        for file in tests/tests/*.rs; do
            name=$(basename "$file" .rs)
            case $1$name in -*harness | -*node_upgrade) continue ;; esac
            step "$name$1" cargo test --quiet --workspace --test "$name" -- --test-threads 3
        done
    }
    nodes_on() { nodes "-$1"; }
fi

# Two kubectls for the control endpoint's door; without the network their tests skip, and that is said.
scripts/kubectl.sh >/dev/null
step build cargo build --quiet --workspace --all-targets || {
    echo "test: the build failed" >&2
    exit 1
}
crates
DAEMONLET_TEST_DOCKER_BIN=$(scripts/docker.sh)
export DAEMONLET_TEST_DOCKER_BIN
DAEMONLET_TEST_DAEMONS=$(scripts/daemons.sh)
export DAEMONLET_TEST_DAEMONS
# The other versions of containerd that are in use, oldest first. Without the network there are none, and that is said.
others=$(scripts/containerds.sh)
DAEMONLET_TEST_CONTAINERDS=$(printf '%s' "$others" | tr '\n' ':')
export DAEMONLET_TEST_CONTAINERDS
nodes ''
for bin in $others; do
    DAEMONLET_TEST_CONTAINERD_BIN=$bin
    export DAEMONLET_TEST_CONTAINERD_BIN
    nodes_on "$("$bin/containerd" --version | cut -d ' ' -f 3)"
done
unset DAEMONLET_TEST_CONTAINERD_BIN
step machine scripts/machine.sh --short

printf '\n%s%-36s %5d s\n' "$summary" "all suites" $(($(date +%s) - began_all))
if [ "$(skips)" != 0 ]; then
    echo "skipped: $(skips) tests"
    sed 's/^/  /' "$DAEMONLET_TEST_SKIPS"
fi
[ -z "$failed" ] || { echo "test: FAILED:$failed" >&2; exit 1; }
