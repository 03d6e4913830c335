#!/bin/sh
# Fetches the containerd of other Debian releases and unpacks it under target/containerd, so that the suites can run against it beside
# the installed one. Prints a directory of programs a line. Nothing is installed; runc stays the machine's own, but for the pods of a test
# that need a newer one, which lies beside sid's.
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

# apt_of SUITE WORK WORD…: apt-get for a suite that is no source of the machine's, with directories of its own.
apt_of() {
    suite=$1 work=$2
    shift 2
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    (cd "$work" && apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" \
        -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "$@")
}

# runc_of SUITE PLACE: a runc that maps ids, at PLACE/runc/runc, for pods with users of their own. It wants a newer C library than the
# machine has, so it is made to use the one of its suite, beside it.
runc_of() {
    [ ! -x "$2/runc/runc" ] || return 0
    work=$2.runc
    rm -rf "$work"
    {
        apt_of "$1" "$work" update && apt_of "$1" "$work" download runc libc6 libseccomp2 &&
            (cd "$work" && apt-get -q download patchelf) &&
            for package in "$work"/*.deb; do dpkg -x "$package" "$work/root" || return 1; done &&
            mkdir -p "$2/runc" &&
            for file in ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libc.so.6 libseccomp.so.2; do
                found=$(find "$work/root" -name "$file" | head -n 1)
                [ -z "$found" ] || cp -L "$found" "$2/runc/$file" || return 1
            done &&
            cp "$(find "$work/root" -path '*bin/runc' -type f)" "$2/runc/runc.new" &&
            "$work/root/usr/bin/patchelf" --set-interpreter "$(echo "$2"/runc/ld-linux-*)" --set-rpath "$2/runc" "$2/runc/runc.new" &&
            "$2/runc/runc.new" --version && mv "$2/runc/runc.new" "$2/runc/runc"
    } >"$work.log" 2>&1 || return 1
    rm -rf "$work"
}

[ $# -gt 0 ] || set -- trixie sid
for suite in "$@"; do
    place=$top/target/containerd/$suite
    if [ ! -x "$place/usr/bin/containerd" ]; then
        work=$place.work
        rm -rf "$work"
        if ! { apt_of "$suite" "$work" update && apt_of "$suite" "$work" download containerd && dpkg -x "$work"/containerd_*.deb "$work/root"; } >"$place.log" 2>&1; then
            echo "containerds: the containerd of $suite could not be fetched, so it is skipped; see $place.log" >&2
            continue
        fi
        rm -rf "$place"
        mv "$work/root" "$place"
        rm -rf "$work"
    fi
    [ "$suite" != sid ] || runc_of "$suite" "$place" || echo "containerds: the runc of $suite could not be fetched: tests that need it skip" >&2
    echo "containerds: $suite: $("$place/usr/bin/containerd" --version)" >&2
    echo "$place/usr/bin"
done
