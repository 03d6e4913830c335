#!/bin/sh
# Makes the root directories of real daemons from this Debian release's packages under target/daemons, as tar archives that the tests turn into
# images: the program, its libraries and nothing else. Nothing is installed, nothing is started. Prints the directory.
set -eu
cd "$(dirname "$0")/.."
place=$PWD/target/daemons

# root NAME PROGRAM FILE… of what was unpacked in $work/unpacked: those files with the libraries that they load, where the loader looks for them.
root() {
    name=$1
    shift
    root=$work/$name
    libraries=$(find "$work/unpacked" -name '*.so*' -exec dirname {} + | sort -u | tr '\n' ':')
    for file in "$@"; do
        mkdir -p "$root/$(dirname "$file")"
        cp -L "$work/unpacked/$file" "$root/$file"
    done
    for file in "$@"; do LD_LIBRARY_PATH=$libraries ldd "$work/unpacked/$file"; done |
        awk '$2 == "=>" { print $1, $3 } $1 ~ /^\// { print $1, $1 }' | sort -u |
        while read -r library path; do
            [ "$path" != not ] || { echo "$library is missing"; exit 1; }
            case $library in /*) target=$library ;; *) target=/usr/lib/$library ;; esac
            mkdir -p "$root$(dirname "$target")"
            cp -L "$path" "$root$target"
        done
    # The loader looks in /lib and /usr/lib by itself, whatever the architecture's own directory is called.
    ln -s usr/lib "$root/lib"
    tar -C "$root" --sort=name --owner=0 --group=0 --mtime=@0 -cf "$work/$name.tar" .
}

if [ ! -e "$place/rsyslog.tar" ]; then
    work=$place.work
    rm -rf "$work" && mkdir -p "$work/unpacked" "$work/debs"
    # A machine whose package lists are empty has no candidate of anything.
    apt-cache policy rsyslog 2>/dev/null | grep -q "Candidate: [0-9]" || apt-get -q update >/dev/null 2>&1 || true
    libraries=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances rsyslog |
        awk '$1 == "Depends:" && $2 ~ /^lib/ && $2 != "libc6" { print $2 }' | sort -u)
    # The words are meant to be split.
    # shellcheck disable=SC2086
    if ! (cd "$work/debs" && apt-get -q -o APT::Sandbox::User=root download prometheus-node-exporter rsyslog $libraries &&
        for package in *.deb; do dpkg -x "$package" ../unpacked; done) >"$place.log" 2>&1; then
        echo "daemons: real daemons could not be fetched, so the suite about them skips; see $place.log" >&2
        exit 0
    fi
    modules=$(cd "$work/unpacked" && find usr/lib -path '*/rsyslog/*.so' \
        \( -name 'imfile.so' -o -name 'imtcp.so' -o -name 'lm*.so' \))
    {
        root node-exporter usr/bin/prometheus-node-exporter
        # shellcheck disable=SC2086
        root rsyslog usr/sbin/rsyslogd $modules
    } >>"$place.log" 2>&1 || {
        echo "daemons: a library that they need is missing, so the suite about them skips; see $place.log" >&2
        exit 0
    }
    rm -rf "$place" && mkdir "$place"
    mv "$work/node-exporter.tar" "$work/rsyslog.tar" "$place/"
    rm -rf "$work"
fi
echo "$place"
