#!/bin/sh
# Runs inside the booted machine as root, once a boot, and writes `ok NAME`, `FAIL NAME: …`, `note …` and at last `done`.
# It knows the project by its units, flags and output only. The full form goes through three boots: the first installs and tests, the
# second follows an orderly reboot, the third a reset without any warning.
# Most functions are called by name through check and eventually.
# shellcheck disable=SC2317
set -u
form=$(cat /payload/form)
memory=/var/lib/machine-test
mkdir -p "$memory"
boot=$(($(cat "$memory/boot" 2>/dev/null || echo 0) + 1))
echo "$boot" >"$memory/boot"

# Software emulation on a busy machine is slow; what is waited for here takes a second or two on a real one.
PATIENCE=90
# Twice the agent's idle beat, so that a live agent is never late, and short enough to wait for.
TEST_WATCHDOG=20

# Each outcome with the seconds since the boot, to see where the time goes.
ok() { echo "ok $* ($(cut -d. -f1 /proc/uptime) s)"; }
fail() {
    echo "FAIL $*"
    failed=yes
}

# check NAME COMMAND…: one outcome.
check() {
    name=$1
    shift
    if said=$("$@" 2>&1); then ok "$name"; else fail "$name: $(printf '%s' "$said" | tail -n 15 | tr '\n' '|')"; fi
}

# eventually NAME COMMAND…: one outcome, with patience.
eventually() {
    name=$1
    shift
    tries=$((PATIENCE * 5))
    until said=$("$@" 2>&1); do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ]; then
            fail "$name after $PATIENCE s: $(printf '%s' "$said" | tail -n 15 | tr '\n' '|')"
            return 1
        fi
        sleep 0.2
    done
    ok "$name"
}

finish() {
    if [ -n "${failed:-}" ]; then
        echo "note --- what the units wrote"
        journalctl --no-pager -q -n 60 -u daemonlet -u daemonlet-logkeeper | sed 's/^/note /'
        journalctl --no-pager -q -n 15 -u containerd | cut -c 1-300 | sed 's/^/note /'
        daemonlet why 2>&1 | sed 's/^/note /'
    fi
    echo "done"
    sync
    systemctl poweroff --no-block
    exit 0
}

next_boot() {
    [ -z "${failed:-}" ] || finish
    sync
    echo "note going down: $1"
    case $1 in
    reboot) systemctl reboot --no-block ;;
    # What a power cut is to the guest: nothing is told, nothing is flushed.
    reset) echo b >/proc/sysrq-trigger ;;
    esac
    exit 0
}

pod_names() { daemonlet get pods -o json | grep -o '"name": *"[^"]*"' | sort; }

# Every pod Running and ready, at least this many.
running() {
    daemonlet get pods | awk -v least="$1" '
        { print }
        NR > 1 { pods++; split($3, n, "/"); if (n[1] != n[2] || $4 != "Running") waits++ }
        END { exit !(pods >= least && !waits) }'
}

tasks() { ctr -n daemonlet tasks ls | awk 'NR > 1 { print $1, $2 }' | sort; }
is() { [ "$2" = "$3" ] || { echo "$1 is $2, not $3"; return 1; }; }
property() { systemctl show -P "$2" "$1"; }
same_tasks() { now=$(tasks); [ "$now" = "$1" ] || { echo "before: $1, now: $now"; return 1; }; }
alive() {
    for pid in $(echo "$1" | awk '{ print $2 }'); do
        kill -0 "$pid" || return 1
    done
}

systemd_runs() { [ "$(cat /proc/1/comm)" = systemd ]; }

# The full form installs the packages, the short one what they would hold.
packaged() { ls /payload/daemonlet_*.deb >/dev/null 2>&1; }
install() {
    packaged || {
        cp /payload/daemonlet /payload/daemonlet-logkeeper /usr/bin/
        cp /payload/*.service /payload/*.target /etc/systemd/system/
    }
    mkdir -p /etc/daemonlet/manifests /var/lib/daemonlet/images
    cp /payload/manifests/* /etc/daemonlet/manifests/
    cp /payload/images/* /var/lib/daemonlet/images/
    mkdir -p /etc/default
    echo 'DAEMONLET_OPTIONS=--runtime-class=crun=/usr/bin/crun' >/etc/default/daemonlet
    # The example's shell does not obey SIGTERM, and a shutdown would wait a minute and a half for it.
    mkdir -p /etc/systemd/system.conf.d
    printf '[Manager]\nDefaultTimeoutStopSec=10s\n' >/etc/systemd/system.conf.d/test.conf
    systemctl daemon-reexec || return
    if packaged; then
        # The settings above are the administrator's by now. Installing enables and starts the units.
        dpkg --force-confold -i /payload/daemonlet_*.deb
    else
        systemctl enable daemonlet-logkeeper daemonlet
    fi
}

verify_units() {
    said=$(systemd-analyze verify daemonlet.service daemonlet-logkeeper.service daemons-ready.target daemonlet-ready.service 2>&1 | grep -F daemonlet)
    [ -z "$said" ] || { echo "$said"; return 1; }
}

watchdog_is_set() { [ "$(property daemonlet WatchdogUSec)" != 0 ] && [ "$(property daemonlet WatchdogUSec)" != infinity ]; }

# Containers have slices and scopes made by systemd: the driver of a node whose init is systemd.
systemd_driver() {
    for pid in $(tasks | awk '{ print $2 }'); do
        path=$(cut -d: -f3 "/proc/$pid/cgroup")
        case $path in
        # crun keeps its processes in a cgroup of its own within the scope.
        *daemonlet*.slice/*.scope | *daemonlet*.slice/*.scope/container) ;;
        *) echo "process $pid is in $path"; return 1 ;;
        esac
    done
}

memory_limit() {
    for pid in $(tasks | awk '{ print $2 }'); do
        cat "/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")/memory.max"
    done | grep -qx $((200 * 1024 * 1024))
}

# Pods' slices as the kernel has them, and what systemd keeps on disk about them.
slices() { find /sys/fs/cgroup/daemonlet.slice -type d -name '*-pod*.slice' -printf '%f\n' | sort; }
same_slices() { now=$(slices); [ "$now" = "$1" ] || { echo "before: $1, now: $now"; return 1; }; }
slice_of() { cut -d: -f3 "/proc/$1/cgroup" | grep -o 'daemonlet-[a-z]*-*pod[0-9a-f_]*\.slice'; }
nothing_left_of() {
    left=$(find /sys/fs/cgroup /run/systemd -name "*${1%.slice}*"; systemctl list-units --all --no-legend --plain 'daemonlet-*' | grep -F "${1%.slice}")
    [ -z "$left" ] || { echo "$left"; return 1; }
}
no_unit_failed() {
    left=$(systemctl list-units --all --failed --no-legend --plain 'daemonlet*')
    [ -z "$left" ] || { echo "$left"; return 1; }
}
# The status may lag behind a kill for a moment: what containerd lists counts as well.
replaced() { running 2 && ! kill -0 "$1" 2>/dev/null && alive "$(tasks)" && [ "$(tasks | wc -l)" = 2 ]; }
# One keeper, and it is the unit's: an agent that starts one of its own takes it from systemd's care.
unit_has_the_keeper() {
    now=$(property daemonlet-logkeeper MainPID)
    all=$(pidof daemonlet-logkeeper)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && is "every keeper" "$all" "$now" && daemonlet doctor | grep 'log keeper' | grep -q 'reads 2 containers'
}
# The unit's keeper is the only one, and the agent holds a handle of it: until that one ends, neither of them starts another.
agent_watches_the_keeper() {
    is "the keeper" "$(property daemonlet-logkeeper MainPID) $(pidof daemonlet-logkeeper)" "$1 $1" &&
        grep -qs "^Pid:[[:space:]]*$1\$" "/proc/$(property daemonlet MainPID)"/fdinfo/*
}
# Every container, from outside: the manifests say nothing of AppArmor and none is privileged.
confined() {
    for pid in $(tasks | awk '{ print $2 }'); do
        now=$(cat "/proc/$pid/attr/current")
        case $now in
        'daemonlet-default-'*' (enforce)') ;;
        *) echo "process $pid is $now"; return 1 ;;
        esac
    done
}
# With a memory limit (fluentd) and without one (random-refresher).
no_swap() {
    for pid in $(tasks | awk '{ print $2 }'); do
        now=$(cat "/sys/fs/cgroup$(cut -d: -f3 "/proc/$pid/cgroup")/memory.swap.max")
        is "memory.swap.max of process $pid" "$now" 0 || return 1
    done
}
# Two containers that have every right but AppArmor's try what the default profile forbids; one is exempt from it.
guarded() {
    cat >/etc/daemonlet/manifests/guarded.yaml <<'MANIFEST'
apiVersion: v1
kind: Pod
metadata:
  name: guarded
  annotations:
    container.apparmor.security.beta.kubernetes.io/open: unconfined
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: guarded
    image: busybox:1.36
    command: ["sh", "-c"]
    args: &args
    - |
      read -r profile </proc/self/attr/current
      echo "profile $profile"
      mount -t tmpfs none /tmp && echo mounted
      (: >>/proc/version) && echo opened
      exit 0
    securityContext: &rights
      capabilities: { add: [SYS_ADMIN] }
  - name: open
    image: busybox:1.36
    command: ["sh", "-c"]
    args: *args
    securityContext: *rights
MANIFEST
}
guarded_said() { daemonlet logs guarded-machine -c "$1"; }
guarded_has_ended() { daemonlet get pods | grep guarded | grep -q Completed; }
is_guarded() {
    said=$(guarded_said guarded)
    case $said in
    *'profile daemonlet-default-'*' (enforce)'*) ;;
    *) echo "$said"; return 1 ;;
    esac
    ! echo "$said" | grep -Ex 'mounted|opened'
}
is_open() {
    said=$(guarded_said open)
    [ "$(echo "$said" | grep -Exc 'profile unconfined|mounted|opened')" = 3 ] || { echo "$said"; return 1; }
}
doctor_knows_the_profile() { daemonlet doctor 2>&1 | grep apparmor | grep 'daemonlet-default-.* is loaded'; }
log_has() { daemonlet logs ds/fluentd-elasticsearch -n kube-system | grep "$1"; }
says_oom_killed() { daemonlet get pods -o json | grep -q OOMKilled; }
ended() { ! kill -0 "$1" 2>/dev/null; }

# Eats memory until the kernel ends it; the group and not one process is ended, and the status says why.
hungry() {
    cat >/etc/daemonlet/manifests/hungry.yaml <<MANIFEST
apiVersion: v1
kind: Pod
metadata:
  name: hungry
spec:
  hostNetwork: true
  containers:
  - name: hungry
    image: busybox:1.36
    command: ["sh", "-c", "sleep 1; tail /dev/zero"]
    resources:
      limits:
        memory: 24Mi
MANIFEST
}

# Of a runtime class of its own, with a limit and a network of its own.
of_class_crun() {
    cat >/etc/daemonlet/manifests/crunning.yaml <<MANIFEST
apiVersion: v1
kind: Pod
metadata:
  name: crunning
spec:
  runtimeClassName: crun
  containers:
  - name: crunning
    image: busybox:1.36
    command: ["sh", "-c", "trap 'exit 0' TERM; echo under crun; while :; do sleep 1000 & wait; done"]
    resources:
      limits:
        memory: 32Mi
MANIFEST
}
# Containers of crun, by the state that it keeps: runc has a state.json instead.
crun_states() { ls /run/containerd/runc/daemonlet/*/status; }
crun_pid() {
    id=$(crun_states 2>/dev/null | head -n 1 | cut -d/ -f6)
    ctr -n daemonlet tasks ls | awk -v id="$id" 'id && $1 == id { print $2 }'
}
crun_runs() { [ -n "$(crun_pid)" ] && running 3; }
crun_limit() { is "memory.max" "$(cat "/sys/fs/cgroup$(cut -d: -f3 "/proc/$(crun_pid)/cgroup")/memory.max")" $((32 * 1024 * 1024)); }
crun_replaced() { ! kill -0 "$1" 2>/dev/null && [ -n "$(crun_pid)" ] && [ "$(crun_pid)" != "$1" ] && running 3; }
crun_gone() { ! crun_states 2>/dev/null; }
doctor_knows_crun() { daemonlet doctor | grep 'runtime class crun' | grep 'crun version'; }

new_main_process() {
    now=$(property daemonlet MainPID)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && systemctl is-active --quiet daemonlet
}

first_boot() {
    check units_are_sound install
    check units_verify verify_units
    check the_keeper_starts systemctl start daemonlet-logkeeper
    check ready_is_reached systemctl start daemonlet
    check the_unit_is_active systemctl is-active daemonlet
    check watchdog_is_set watchdog_is_set
    eventually daemons_run running 2 || finish
    check containers_are_in_scopes_of_systemd systemd_driver
    check the_memory_limit_is_systemds memory_limit
    check no_container_swaps no_swap
    check containers_have_our_apparmor_profile confined
    check doctor_knows_the_apparmor_profile doctor_knows_the_profile

    before=$(tasks)
    agent=$(property daemonlet MainPID)
    check restart_succeeds systemctl restart daemonlet
    check restart_is_another_process new_main_process "$agent"
    check restart_spares_every_container same_tasks "$before"
    eventually restart_adopts_every_pod running 2

    check stop_succeeds systemctl stop daemonlet
    check stop_spares_every_container alive "$before"
    check start_after_stop_succeeds systemctl start daemonlet
    eventually stop_and_start_adopt_every_pod running 2
    check stop_and_start_change_no_process same_tasks "$before"

    # The pods' life under the systemd driver: a killed daemon, one that wants too much, one that is no longer wanted.
    pid=$(tasks | awk 'NR == 1 { print $2 }')
    kill -KILL "$pid"
    eventually a_killed_daemon_comes_back replaced "$pid"
    check its_successor_is_in_a_scope systemd_driver
    slices=$(slices)
    hungry
    eventually too_much_memory_is_told_as_OOMKilled says_oom_killed
    rm /etc/daemonlet/manifests/hungry.yaml
    eventually a_removed_pod_leaves_no_slice same_slices "$slices"
    check no_unit_is_left_failed no_unit_failed

    # Another OCI runtime, by its class, under the systemd driver and cgroup v2.
    of_class_crun
    eventually a_pod_of_class_crun_runs_under_crun crun_runs
    check its_container_is_in_a_scope systemd_driver
    check its_memory_limit_is_set crun_limit
    check doctor_knows_crun doctor_knows_crun
    pid=$(crun_pid)
    kill -KILL "$pid"
    eventually it_comes_back_under_crun crun_replaced "$pid"
    rm /etc/daemonlet/manifests/crunning.yaml
    eventually its_end_leaves_nothing_of_crun crun_gone
    eventually its_end_leaves_no_slice same_slices "$slices"

    guarded
    eventually the_guarded_pod_ends guarded_has_ended
    check the_profile_forbids_mounts_and_writes_to_proc is_guarded
    check a_container_that_is_exempt_may is_open
    rm /etc/daemonlet/manifests/guarded.yaml
    eventually the_guarded_pod_is_gone same_slices "$slices"
    keeper=$(property daemonlet-logkeeper MainPID)
    kill -KILL "$keeper"
    eventually a_killed_keeper_is_its_units_again unit_has_the_keeper "$keeper"
    keeper=$(property daemonlet-logkeeper MainPID)
    eventually one_keeper_stays agent_watches_the_keeper "$keeper"
    keeper=$(property daemonlet-logkeeper MainPID)
    check the_keeper_restarts systemctl restart daemonlet-logkeeper
    eventually a_restarted_keeper_is_its_units_again unit_has_the_keeper "$keeper"
    check the_log_is_there log_has 'stand-in fluentd: running on fluentd-elasticsearch-'
    pid=$(grep -lx fluentd /proc/[0-9]*/comm | head -n 1 | cut -d/ -f3)
    slice=$(slice_of "$pid")
    check the_adopted_pod_has_a_slice test -n "$slice"
    mv /etc/daemonlet/manifests/fluentd-elasticsearch.yaml /root/
    eventually an_adopted_pod_ends_when_unwanted ended "$pid"
    eventually it_leaves_nothing_with_systemd nothing_left_of "${slice:-none}"
    mv /root/fluentd-elasticsearch.yaml /etc/daemonlet/manifests/
    eventually it_runs_again_when_wanted running 2
    before=$(tasks)
    daemonlet doctor 2>&1 | sed 's/^/note doctor: /'
    [ "$form" = full ] || finish

    agent=$(property daemonlet MainPID)
    kill -KILL "$agent"
    eventually a_killed_agent_is_started_again new_main_process "$agent"
    eventually a_killed_agent_adopts_every_pod running 2
    check a_killed_agent_costs_no_container same_tasks "$before"

    # A shorter watchdog, so that the test need not wait for the real one.
    mkdir -p /run/systemd/system/daemonlet.service.d
    printf '[Service]\nWatchdogSec=%s\n' "$TEST_WATCHDOG" >/run/systemd/system/daemonlet.service.d/test.conf
    systemctl daemon-reload
    systemctl restart daemonlet
    eventually runs_with_a_short_watchdog running 2
    agent=$(property daemonlet MainPID)
    kill -STOP "$agent"
    eventually a_hung_agent_is_replaced_by_the_watchdog new_main_process "$agent"
    eventually a_hung_agent_costs_nothing running 2
    check a_hung_agent_costs_no_container same_tasks "$before"
    agent=$(property daemonlet MainPID)
    sleep $((TEST_WATCHDOG * 2))
    check a_live_agent_keeps_the_watchdog_quiet is MainPID "$(property daemonlet MainPID)" "$agent"
    rm -r /run/systemd/system/daemonlet.service.d
    systemctl daemon-reload

    agent=$(property daemonlet MainPID)
    check containerd_restarts systemctl restart containerd
    check containerds_restart_spares_the_agent is MainPID "$(property daemonlet MainPID)" "$agent"
    check containerds_restart_spares_every_container alive "$before"
    eventually pods_run_after_containerds_restart running 2
    # Masked afterwards, because the agent's unit wants containerd and so would start it; not before, because a masked unit is stopped
    # without its own KillMode=process, and the shims with it.
    check containerd_stops systemctl stop containerd
    systemctl mask --runtime containerd
    check containerds_stop_spares_the_agent is MainPID "$(property daemonlet MainPID)" "$agent"
    check ready_does_not_wait_for_containerd timeout 60 systemctl restart daemonlet
    check containerds_absence_spares_every_container alive "$before"
    systemctl unmask --runtime containerd
    check containerd_starts systemctl start containerd
    eventually pods_run_after_containerds_stop running 2

    pod_names >"$memory/pods"
    next_boot reboot
}

later_boot() {
    eventually "daemons_run_after_$1" running 2 || finish
    pod_names >"$memory/pods.now"
    check "the_same_pods_after_$1" cmp "$memory/pods" "$memory/pods.now"
    check "containers_are_in_scopes_after_$1" systemd_driver
}

# The packages' life after that of their daemons: nobody notices an upgrade, removing ends all in order, purging leaves the manifests.
no_tasks() { is "what runs" "$(tasks)" ""; }
no_state() { ! ls -d /var/lib/daemonlet /run/daemonlet /var/lib/daemonlet-control 2>/dev/null; }
manifests_stay() { test -e /etc/daemonlet/manifests/fluentd-elasticsearch.yaml; }
no_settings() { ! ls /etc/daemonlet/config.yaml /etc/default/daemonlet 2>/dev/null; }
endpoint_answers() { daemonlet-control token create && test -s /var/lib/daemonlet-control/admin.kubeconfig; }
ready_is_told() { daemonlet wait --for ready --timeout 60s; }
packages() {
    check the_target_of_the_daemons_is_reached systemctl start daemons-ready.target
    check wait_says_ready ready_is_told
    before=$(tasks)
    agent=$(property daemonlet MainPID)
    check an_upgrade_succeeds dpkg -i /payload/daemonlet_*.deb
    check an_upgrade_is_another_agent new_main_process "$agent"
    eventually an_upgrade_adopts_every_pod running 2
    check an_upgrade_spares_every_container same_tasks "$before"
    check bundle_is_written daemonlet debug bundle --output /tmp/bundle.tar.gz
    check the_endpoint_is_installed dpkg -i /payload/daemonlet-control_*.deb
    eventually the_endpoint_answers endpoint_answers
    check the_endpoint_is_purged dpkg -P daemonlet-control
    check removing_succeeds dpkg -r daemonlet
    check removing_ends_every_daemon no_tasks
    check removed_units_are_gone test ! -e /usr/lib/systemd/system/daemonlet.service
    check installing_again_succeeds dpkg -i /payload/daemonlet_*.deb
    eventually the_daemons_run_again running 2
    check purging_succeeds dpkg -P daemonlet
    check purging_ends_every_daemon no_tasks
    check purging_leaves_no_state no_state
    check purging_leaves_no_settings no_settings
    check purging_leaves_the_manifests manifests_stay
}

if [ "$boot" = 1 ]; then
    check systemd_is_up systemd_runs
    check cgroup_v2_has_controllers test -e /sys/fs/cgroup/cgroup.controllers
    [ "$form" != trivial ] || finish
    first_boot
elif [ "$boot" = 2 ]; then
    later_boot a_reboot
    next_boot reset
else
    later_boot a_reset
    ! packaged || packages
    finish
fi
