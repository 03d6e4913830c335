#!/bin/sh
# `make stop`: undoes what `make run` made: pods, processes, mounts, namespaces, cgroups, the bridge and its rules, and all state.
# May be called at any time and as often as one likes, also when parts have died.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root stop

# How long the agent may take to end all pods in order once their processes were killed; what is left then is removed by hand.
ORDERLY_SECONDS=20

if [ ! -d "$run" ] && [ ! -d "$sockets" ]; then
    echo "stop: nothing is running"
    exit 0
fi
containerd_socket=$sockets/containerd.sock
listen=
program=$top/target/release/daemonlet
if [ -s "$run/env" ]; then
    # shellcheck source=/dev/null
    . "$run/env"
fi

containers() {
    ctr_run containers ls -q 2>/dev/null || true
}

kill_tasks() {
    for task in $(ctr_run tasks ls -q 2>/dev/null || true); do
        ctr_run tasks kill -s SIGKILL "$task" 2>/dev/null || true
    done
}

# In order: an agent that knows of no control endpoint (it has no setting of one, and nothing of one in its state) and has an empty manifest
# directory ends all of its pods, addresses and namespaces included. Nobody waits for their grace periods, because whoever says stop means it.
if agent=$(recorded agent) && [ -x "$program" ]; then
    echo "stop: ending the pods"
    end_process "$agent" 15
    mkdir -p "$run/empty"
    rm -rf "$run/state/control"
    start_agent "$program" "$run/empty"
    tries=$((ORDERLY_SECONDS * 5))
    while [ -n "$(containers)" ] && [ "$tries" -gt 0 ] && recorded agent >/dev/null; do
        # A few looks pass first: a pod that is killed before the agent knows that it is unwanted would only be started again.
        [ "$tries" -gt $((ORDERLY_SECONDS * 5 - 5)) ] || kill_tasks
        tries=$((tries - 1))
        sleep 0.2
    done
fi

echo "stop: ending the agent, the control endpoint and the log keeper"
for name in agent control; do
    if pid=$(recorded "$name"); then
        end_process "$pid" 10
    fi
done
for pid in $(with_argument "$sockets"); do
    case $(readlink "/proc/$pid/exe" 2>/dev/null) in
    */daemonlet-logkeeper* | */daemonlet*) end_process "$pid" 2 ;;
    esac
done

# By hand: whatever the agent did not get to.
kill_tasks
for container in $(containers); do
    ctr_run tasks rm -f "$container" >/dev/null 2>&1 || true
    ctr_run containers rm "$container" >/dev/null 2>&1 || true
done
if [ "$containerd_socket" != "$sockets/containerd.sock" ] && [ -S "$containerd_socket" ]; then
    # A containerd that others use as well gets its namespace emptied.
    for image in $(ctr_run images ls -q 2>/dev/null || true); do
        ctr_run images rm "$image" >/dev/null 2>&1 || true
    done
    for lease in $(ctr_run leases ls -q 2>/dev/null || true); do
        ctr_run leases rm "$lease" >/dev/null 2>&1 || true
    done
    # Snapshots go children first; each round removes those without children.
    for _ in 1 2 3 4 5 6 7 8; do
        for snapshot in $(ctr_run snapshots ls 2>/dev/null | awk 'NR > 1 { print $1 }'); do
            ctr_run snapshots rm "$snapshot" >/dev/null 2>&1 || true
        done
    done
    for blob in $(ctr_run content ls -q 2>/dev/null || true); do
        ctr_run content rm "$blob" >/dev/null 2>&1 || true
    done
    # A namespace can be removed once containerd has collected what nothing refers to any more.
    tries=25
    until said=$(ctr_run namespaces rm "$namespace" 2>&1); do
        case $said in *"not found"*) break ;; esac
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "stop: containerd keeps the empty namespace $namespace: $said" >&2; break; }
        sleep 0.2
    done
fi

# Which directories are our cgroups: cgroupfs has the root itself, the systemd driver slices with its name.
cgroups() {
    find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup_root" -o -path "*/$cgroup_root/*" -o -path "*/$cgroup_root.slice*" \) 2>/dev/null || true
}

for cgroup in $(cgroups); do
    while read -r pid; do
        kill -KILL "$pid" 2>/dev/null || true
    done <"$cgroup/cgroup.procs" 2>/dev/null || true
done

if [ "$containerd_socket" = "$sockets/containerd.sock" ]; then
    echo "stop: ending containerd"
    shims=$(with_argument "$containerd_socket")
    addresses=$(cat "$run"/containerd/state/io.containerd.runtime.v2.task/"$namespace"/*/address 2>/dev/null || true)
    if pid=$(recorded containerd); then
        end_process "$pid" 5
    fi
    for pid in $shims; do
        end_process "$pid" 1
    done
    for address in $addresses; do
        rm -f "${address#unix://}"
    done
fi
rm -rf "/run/containerd/runc/$namespace"

# The last mount first.
awk '{ print $5 }' /proc/self/mountinfo | grep -F -e "$run/" -e "$sockets/" | tac | while read -r point; do
    umount -l "$point" 2>/dev/null || true
done

for cgroup in $(cgroups); do
    tries=50
    while [ -d "$cgroup" ] && ! rmdir "$cgroup" 2>/dev/null && [ "$tries" -gt 0 ]; do
        tries=$((tries - 1))
        sleep 0.1
    done
done

# The pods' bridge and the packet rules that name it. All agents of a network namespace share them, so they stay while another agent
# (a service on this machine, say) is at work or a pod is plugged in.
bridge=daemonlet0
others=
for dir in /proc/[0-9]*; do
    case $(readlink "$dir/exe" 2>/dev/null || true) in
    */daemonlet | */daemonlet\ \(deleted\))
        [ "$(readlink "$dir/ns/net")" != "$(readlink /proc/self/ns/net)" ] || others=yes
        ;;
    esac
done
# `ip` asks the network namespace that this runs in; /sys shows the one in which it was mounted.
if [ -z "$others" ] && [ -z "$(ip -o link show master "$bridge" 2>/dev/null || true)" ]; then
    for tables in iptables ip6tables; do
        for table in nat filter; do
            "$tables" -w 5 -t "$table" -S 2>/dev/null | grep -e "^-A .*[io] $bridge .*--comment \"*daemonlet" | sed 's/^-A/-D/' |
                while read -r rule; do
                    echo "$rule" | xargs "$tables" -w 5 -t "$table" || true
                done
        done
    done
    ! ip link show dev "$bridge" >/dev/null 2>&1 || ip link del "$bridge" || true
fi

rm -rf "$run"
[ "$sockets" = "$run/s" ] || rm -rf "$sockets"
echo "stop: nothing of make run is left"
