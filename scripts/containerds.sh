#!/bin/sh
# Fetches the containerd of other Debian releases and unpacks it under target/containerd, so that the suites can run against it beside
# the installed one. Prints a directory of programs a line. Nothing is installed; runc stays the machine's own.
# Usage: containerds.sh [SUITE…]     (default: trixie sid)
set -eu
cd "$(dirname "$0")/.."
top=$PWD

# The mirror and its key are those of the machine's own apt.
# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(SITE)' | awk -v c="$codename" '$1 == c && $2 == "main" { print $3; exit }')
[ -n "$mirror" ] || { echo "containerds: no apt source for $codename main found" >&2; exit 1; }

[ $# -gt 0 ] || set -- trixie sid
for suite in "$@"; do
    place=$top/target/containerd/$suite
    if [ ! -x "$place/usr/bin/containerd" ]; then
        work=$place.work
        rm -rf "$work"
        mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
        options="-q -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists -o Dir::Cache::archives=$work/archives -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Languages=none"
        # The options are words that are meant to be split.
        # shellcheck disable=SC2086
        if ! { apt-get $options update && cd "$work" && apt-get $options download containerd && dpkg -x containerd_*.deb root; } >"$place.log" 2>&1; then
            cd "$top"
            echo "containerds: the containerd of $suite could not be fetched, so it is skipped; see $place.log" >&2
            continue
        fi
        cd "$top"
        rm -rf "$place"
        mv "$work/root" "$place"
        rm -rf "$work"
    fi
    echo "containerds: $suite: $("$place/usr/bin/containerd" --version)" >&2
    echo "$place/usr/bin"
done
