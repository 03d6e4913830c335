#!/bin/sh
# `make deb`: the Debian packages daemonlet and daemonlet-control under target/debian/, and the agent, its log keeper and the endpoint as static
# programs under target/static/. What the packages say (manual pages, completions, default configurations) is made from the programs' own
# command lines.
# PROFILE=dev: packages of the programs that the tests use; BUILT=1: what lies under target/ is built already.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Makes the packages. Built from the crates registry once, in some minutes, into target/.
CARGO_DEB_VERSION=3.8.0
profile=${PROFILE:-release}
case $profile in dev) dir=debug ;; *) dir=$profile ;; esac
made=target/packaging

scripts/setup.sh build
if [ ! -x "target/tools/bin/cargo-deb" ]; then
    echo "deb: building cargo-deb $CARGO_DEB_VERSION into target/tools, which takes some minutes"
    cargo install --quiet --locked --version "$CARGO_DEB_VERSION" --root target/tools --target-dir target/tools-build cargo-deb
    rm -rf target/tools-build
fi
programs="--package daemonlet --package keeper --package control --bin daemonlet --bin daemonlet-logkeeper --bin daemonlet-control"
if [ "$profile" = release ] && [ -z "${BUILT:-}" ]; then
    echo "deb: building the static programs (each is optimised as a whole, which takes minutes)"
    mkdir -p target/static
    for program in daemonlet:daemonlet keeper:daemonlet-logkeeper control:daemonlet-control; do
        # What it leaves in target/release is built anew below: a program there uses the system's C library.
        cargo rustc --quiet --release --package "${program%%:*}" --bin "${program#*:}" -- -C target-feature=+crt-static
        cp --remove-destination "target/release/${program#*:}" target/static/
        echo "deb: target/static/${program#*:}"
    done
fi
if [ -z "${BUILT:-}" ]; then
    echo "deb: building the programs"
    # shellcheck disable=SC2086
    cargo build --quiet --profile "$profile" $programs
fi

rm -rf "$made"
mkdir -p "$made"
# Their text does not depend on how a program was compiled, and a debug build is there already wherever tests have run.
cargo run --quiet --package packaging --bin pages -- "$made" >/dev/null
version=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"name":"daemonlet","version":"\([^"]*\)".*/\1/')
{
    echo "daemonlet ($version-1) unstable; urgency=medium"
    echo
    echo "  * See CHANGELOG.md of this version."
    echo
    echo " -- The daemonlet authors <daemonlet@localhost>  $(date -R -d "@$(git log -1 --format=%ct 2>/dev/null || date +%s)")"
} >"$made/changelog"

rm -rf target/debian
mkdir -p target/debian
for package in daemonlet control; do
    deb=$(target/tools/bin/cargo-deb deb --quiet --no-build --profile "$profile" --package "$package" --output target/debian/)
    echo "deb: $deb"
done
