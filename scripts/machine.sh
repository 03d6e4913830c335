#!/bin/sh
# Boots a Debian virtual machine with this project's programs and units, lets it test itself and reads the outcome from its console.
# Usage: machine.sh [--short] [--trivial]; the full form installs the Debian packages, the others only what they hold
#   --short    the form inside `make test`: no reboot
#   --trivial  boots, says so and powers off: proves the machine itself
# The base file system is made once (about 90 s) and kept under target/machine; the programs travel on a second, small disk.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
cache=$top/target/machine
form=full
for word in "$@"; do
    case $word in
    --short) form=short ;;
    --trivial) form=trivial ;;
    *) echo "usage: machine.sh [--short] [--trivial]" >&2; exit 2 ;;
    esac
done

# A base file system takes 90 s on an idle machine; a mirror that stalls is to be noticed.
BASE_SECONDS=900
# A boot takes 12 s and the full form boots twice, under software emulation on what may be a busy machine.
case $form in trivial) RUN_SECONDS=180 ;; short) RUN_SECONDS=600 ;; *) RUN_SECONDS=1200 ;; esac
PACKAGES=apparmor,systemd,systemd-sysv,dbus,udev,kmod,containerd,runc,crun,containernetworking-plugins,busybox-static,iproute2,iptables,procps,linux-image-cloud-amd64,initramfs-tools

die() {
    echo "machine: $*" >&2
    exit 1
}

[ "$(uname -m)" = x86_64 ] || die "only x86_64 machines are built so far; this one is $(uname -m)"
[ "$(id -u)" = 0 ] || die "root is needed (debootstrap makes device nodes and runs in a chroot). Run: sudo make machine"
"$top/scripts/setup.sh" machine
mkdir -p "$cache"

# One machine at a time: two would share the cache and the two processors.
exec 9>"$cache/lock"
flock -w "$BASE_SECONDS" 9 || die "another machine is being built or run for over $BASE_SECONDS s ($cache/lock)"

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
key=$({ echo "$codename $PACKAGES"; sed -n '/^# base-begins/,/^# base-ends/p' scripts/machine.sh; } | sha256sum | cut -c1-16)
base=$cache/base-$key

# base-begins: what is between these marks decides whether a kept base is still good.
make_base() {
    # The mirror is the one that this machine's own apt uses for its main suite.
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(SITE)' | awk -v c="$codename" '$1 == c && $2 == "main" { print $3; exit }')
    [ -n "$mirror" ] || die "no apt source for $codename main found (apt-get indextargets)"
    work=$cache/base.work
    rm -rf "$work" "$cache"/base-*
    echo "machine: making the base file system of $codename (about 90 s)"
    timeout "$BASE_SECONDS" debootstrap --variant=minbase --include="$PACKAGES" "$codename" "$work" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
        { tail -n 20 "$cache/debootstrap.log" >&2; die "debootstrap failed; all of its output is in $cache/debootstrap.log"; }
    rm -rf "$work"/var/cache/apt/archives/*.deb "$work"/var/lib/apt/lists/* "$work"/etc/apt/sources.list
    echo machine >"$work/etc/hostname"
    printf '/dev/vda / ext4 defaults 0 1\n/dev/vdb /payload ext4 defaults,ro 0 2\n' >"$work/etc/fstab"
    mkdir -p "$work/payload"
    # Networks beyond the loopback are not given to the machine, so nothing may wait for one.
    ln -sf /dev/null "$work/etc/systemd/system/systemd-networkd-wait-online.service"
    cat >"$work/etc/systemd/system/self-test.service" <<UNIT
[Unit]
Description=The machine's test of itself
RequiresMountsFor=/payload
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/payload/guest.sh
StandardOutput=file:/dev/ttyS1
StandardError=inherit
[Install]
WantedBy=default.target
UNIT
    mkdir -p "$work/etc/systemd/system/default.target.wants"
    ln -sf ../self-test.service "$work/etc/systemd/system/default.target.wants/self-test.service"
    mkdir -p "$base.part"
    cp "$work"/boot/vmlinuz-* "$base.part/vmlinuz"
    cp "$work"/boot/initrd.img-* "$base.part/initrd"
    truncate -s 3G "$base.part/root.img"
    mke2fs -q -t ext4 -d "$work" "$base.part/root.img"
    mv "$base.part" "$base"
    rm -rf "$work"
}
# base-ends

[ -s "$base/root.img" ] || make_base

payload=$cache/payload
rm -rf "$payload"
mkdir -p "$payload/images" "$payload/manifests"
cp tests/machine/guest.sh "$payload/"
chmod +x "$payload/guest.sh"
echo "$form" >"$payload/form"
if [ "$form" != trivial ]; then
    bin=${DAEMONLET_TEST_BIN_DIR:-$top/target/debug}
    for program in daemonlet daemonlet-logkeeper stand-in-image; do
        [ -x "$bin/$program" ] || die "$bin/$program is missing: build it first (cargo build --workspace)"
    done
    for program in daemonlet daemonlet-logkeeper; do
        strip -o "$payload/$program" "$bin/$program" 2>/dev/null || cp "$bin/$program" "$payload/"
    done
    if [ "$form" = full ]; then
        # The packages, of the programs that the tests use.
        [ -n "${DAEMONLET_TEST_BIN_DIR:-}" ] || {
            PROFILE=dev BUILT=1 scripts/deb.sh
            cp target/debian/*.deb "$payload/"
        }
    fi
    cp systemd/*.service systemd/*.target "$payload/"
    cp manifests/*.yaml "$payload/manifests/"
    "$bin/stand-in-image" "$payload/images" >/dev/null
fi
rm -f "$cache/payload.img"
truncate -s $(($(du -sm "$payload" | cut -f1) + 32))M "$cache/payload.img"
mke2fs -q -t ext4 -d "$payload" "$cache/payload.img"

console=$cache/console.log
results=$cache/results.log
: >"$console"
: >"$results"
start=$(date +%s)
# The guest's first serial line is its console, the second carries the results. The root disk is written to a throw-away overlay, which
# lives as long as this qemu and so through the guest's reboots.
qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -smp 2 -m 2048 -cpu max -nodefaults -display none -nic none \
    -kernel "$base/vmlinuz" -initrd "$base/initrd" -append "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=1" \
    -drive "file=$base/root.img,if=virtio,format=raw,snapshot=on" \
    -drive "file=$cache/payload.img,if=virtio,format=raw,readonly=on" \
    -device virtio-rng-pci -serial "file:$console" -serial "file:$results" 9>&- 2>"$cache/qemu.log" &
qemu=$!
# The machine ends with this script, however this script ends.
trap 'kill "$qemu" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

shown=0
deadline=$((start + RUN_SECONDS))
while :; do
    now=$(wc -l <"$results")
    if [ "$now" -gt "$shown" ]; then
        sed -n "$((shown + 1)),${now}p" "$results" | tr -d '\r' | grep -E '^(ok|FAIL|note|skip) ' || true
        shown=$now
    fi
    grep -q '^done' "$results" && break
    kill -0 "$qemu" 2>/dev/null || break
    [ "$(date +%s)" -lt "$deadline" ] || break
    sleep 0.2
done
took=$(($(date +%s) - start))

fail() {
    echo "machine: FAILED after $took s: $*" >&2
    echo "--- results ($results)" >&2
    cat "$results" >&2
    echo "--- last lines of the console ($console)" >&2
    tail -n 60 "$console" >&2
    cat "$cache/qemu.log" >&2
    exit 1
}
grep -q '^done' "$results" || fail "the guest did not finish its tests within $RUN_SECONDS s"
! grep -q '^FAIL' "$results" || fail "the guest found faults"
grep -q '^ok' "$results" || fail "the guest tested nothing"
echo "machine: $(grep -c '^ok' "$results") checks passed in $took s ($form form)"
