#!/bin/sh
# `make check`: format, lints, documentation, licences and scripts. Every part runs, and the last line says which failed.
set -u
cd "$(dirname "$0")/.." || exit 1
scripts/setup.sh build || exit 1
failed=

part() {
    name=$1
    shift
    began=$(date +%s)
    if "$@"; then
        echo "check: $name: in order ($(($(date +%s) - began)) s)"
    else
        echo "check: $name FAILED" >&2
        failed="$failed $name"
    fi
}

document() {
    # These pages are for readers of the source, so they hold private items, and links to those are sound.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --quiet --workspace --no-deps --document-private-items
}

licences() {
    if cargo deny --version >/dev/null 2>&1; then
        echo "check: licences, bans and sources by cargo-deny"
        cargo deny --offline check licenses bans sources || return 1
        if [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
            cargo deny --offline check advisories
        else
            echo "check: advisories were NOT checked: no database on this machine"
        fi
    else
        echo "check: licences, bans and sources by the project's own check (cargo-deny is not installed); advisories were NOT checked"
        host=$(rustc -vV | sed -n 's/^host: //p')
        cargo metadata --format-version 1 --locked --filter-platform "$host" |
            cargo run --quiet --package tests --bin licences -- deny.toml
    fi
}

scripts() {
    for script in scripts/*.sh tests/machine/*.sh .ci/run; do
        sh -n "$script" || return 1
    done
    if command -v shellcheck >/dev/null; then
        shellcheck -x scripts/*.sh tests/machine/*.sh .ci/run
    else
        echo "check: shellcheck is not installed, so scripts were only parsed"
    fi
}

part format cargo fmt --all --check
part lints cargo clippy --quiet --workspace --all-targets -- -D warnings
part documentation document
part licences licences
part scripts scripts
[ -z "$failed" ] || { echo "check: FAILED:$failed" >&2; exit 1; }
