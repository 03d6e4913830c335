#!/bin/sh
# The way out, in the booted machine: a writer that says its last word when it is told to stop, and a shipper that it is after. Words for guest.sh,
# which sources this file: `writer_and_shipper` before a reboot or poweroff that is asked for (not a reset), `shipped_at_the_end` after the
# next boot. $memory is a directory that outlives the boot: the one that the manifest names.
# Needs /usr/lib/systemd/logind.conf.d/50-daemonlet.conf, which the package brings; without it logind waits 5 s, which is enough here too.

shipping_memory=${memory:-/var/lib/machine-test}/shipped

writer_and_shipper() {
    mkdir -p "$shipping_memory"
    rm -f "$shipping_memory"/*
    cat >/etc/daemonlet/manifests/shipping.yaml <<MANIFEST
apiVersion: v1
kind: Pod
metadata:
  name: writer
  annotations:
    daemonlet.dev/after: shipper
spec:
  hostNetwork: true
  containers:
  - name: writer
    image: busybox:1.36
    command: ["sh", "-c", "trap 'echo the last line; exit 0' TERM; echo the first line; while :; do sleep 1000 & wait; done"]
---
apiVersion: v1
kind: Pod
metadata:
  name: shipper
spec:
  hostNetwork: true
  containers:
  - name: shipper
    image: busybox:1.36
    command: ["sh", "-c", "ship() { cat /pods/default_writer-*/writer/*.log >/shipped/\$1; }; trap 'ship at-end; sync; exit 0' TERM; while :; do ship now; sleep 2 & wait; done"]
    volumeMounts:
    - { name: pods, mountPath: /pods, readOnly: true }
    - { name: shipped, mountPath: /shipped }
  volumes:
  - name: pods
    hostPath: { path: /var/log/pods }
  - name: shipped
    hostPath: { path: $shipping_memory }
MANIFEST
}

# Before the shutdown.
shipped() { grep -F "$1" "$shipping_memory/now"; }
shutdown_waits() { systemd-inhibit --list --no-pager | grep daemonlet | grep shutdown | grep delay; }
doctor_knows_the_shutdown() { daemonlet doctor | grep -E '^ok +shutdown +waits up to 30 s'; }

# After the boot that follows. Written by the shipper when it was told to stop, and never since.
shipped_at_the_end() {
    grep -F 'the last line' "$shipping_memory/at-end" || {
        ls -l "$shipping_memory"
        cat "$shipping_memory"/*
        return 1
    }
}
