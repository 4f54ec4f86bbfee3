# Sourced by every scenario and by the shell: functions for guests and traces; results go to /share.
#
#   known NAME VALUE               record a fact, one line, for the checks outside
#   trace NAME [XENTRACE OPTION..] start xentrace; traced ends it and saves NAME.bin with its facts
#   guest NAME TYPE [LINE...]      create a Linux guest; LINEs go into xl's configuration
#   own_guest NAME VARIANT [LINE...] create a guest of tests/lab/guest, such as lfence-inline
#   own_pair VARIANT WORDS         two of those, a and b, that ping each other to their end
#   in_guest NAME COMMAND          run a shell line in a Linux guest and wait for its end
#   full COMMAND...                run a command in the Debian userland of the full image, such as xtrace
#   await SECONDS WHAT COMMAND...  repeat COMMAND until it succeeds
#
# Every wait has a limit, after which the job exits with 97.

KERNEL_WORDS="console=hvc0 nokaslr mitigations=off cryptomgr.notests net.ifnames=0"
logs=/var/log/xen/console

say() { echo "lab: $(cut -d' ' -f1 /proc/uptime) $*"; }

known() { echo "$@" >>/share/known; }

give_up() {
    say "LIMIT: $*"
    xl dmesg | tail -20
    exit 97
}

full() {
    chroot /full /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp "$@"
}

POLL_US=200000
await() {
    left=$(($1 * 1000000 / POLL_US))
    what=$2
    shift 2
    until "$@"; do
        [ $left -gt 0 ] || give_up "$what"
        left=$((left - 1))
        usleep $POLL_US
    done
}

# attempt SECONDS COMMAND...: run it with a limit.
attempt() { timeout -s KILL "$@"; }

domid() { xl domid "$1"; }

create() {
    name=$1
    for try in 1 2; do
        # Paused: otherwise a short-lived guest could be gone before its id is known.
        if attempt 60 xl create -q -p "/tmp/$name.cfg"; then
            known created "$name" "$(domid "$name")" "try $try"
            [ -n "$HOLD" ] && return
            attempt 20 xl unpause "$name" && return
        fi
        known failed "$name" "try $try"
        say "creation of $name failed, try $try"
        tail -n 5 "$logs"/* /var/log/xen/*.log 2>/dev/null
        attempt 20 xl destroy "$name" 2>/dev/null
    done
    give_up "cannot create guest $name, tried twice"
}

guest() {
    name=$1
    type=$2
    shift 2
    {
        echo "name=\"$name\""
        echo "type=\"$type\""
        echo 'kernel="/boot/vmlinux"'
        echo 'ramdisk="/boot/guest.cpio"'
        echo "extra=\"$KERNEL_WORDS\""
        echo "memory=${MEMORY:-160}"
        echo "vcpus=${VCPUS:-1}"
        # Without this a PVH guest crashes at its first RDTSCP.
        [ "$type" = pv ] || echo 'tsc_mode="native"'
        for line in "$@"; do echo "$line"; done
    } >"/tmp/$name.cfg"
    create "$name"
    await 60 "$name did not become ready" grep -qs "^guest: ready" "$logs/guest-$name.log"
    say "$name is ready"
}

own_guest() {
    name=$1
    variant=$2
    shift 2
    {
        echo "name=\"$name\""
        echo 'type="pv"'
        echo "kernel=\"/share/guest-$variant.elf\""
        echo 'memory=16'
        echo 'vcpus=1'
        # Otherwise the TSCs in its log would not be the host's.
        echo 'tsc_mode="native"'
        for line in "$@"; do echo "$line"; done
    } >"/tmp/$name.cfg"
    create "$name"
}

type_to() { echo "$2" >"$(xenstore-read "/local/domain/$(domid "$1")/console/tty")"; }

# own_pair VARIANT WORDS: two of our own guests, a and b, ping each other to their end.
own_pair() {
    hold_own_pair "$@"
    run_own_pair
}

# The same in steps, for a trace that starts after their creation: hold, then run, or start and end.
hold_own_pair() {
    HOLD=yes
    own_guest a "$1" "extra=\"role=listen $2\""
    own_guest b "$1" "extra=\"role=connect $2\""
    HOLD=
    a=$(domid a) b=$(domid b)
}

run_own_pair() {
    start_own_pair
    end_own_pair
}

start_own_pair() {
    for name in a b; do attempt 20 xl unpause $name || give_up "cannot unpause $name"; done
    type_to a "peer=$b"
    await 30 "a did not print its port" grep -qs "^xtrace-guest: port" $logs/guest-a.log
    type_to b "peer=$a port=$(sed -n 's/^xtrace-guest: port \([0-9]*\).*/\1/p' $logs/guest-a.log)"
}

end_own_pair() {
    for name in a b; do
        await 60 "$name did not finish" grep -qs "^xtrace-guest: done" $logs/guest-$name.log
    done
    cp $logs/guest-?.log /share/
}

HOLD=
number=0
in_guest() {
    begin_in_guest "$@"
    end_in_guest "$1" "$number"
}

# Start a shell line in a guest without waiting for it; $number identifies it.
begin_in_guest() {
    number=$((number + 1))
    type_to "$1" "$number $2"
}

end_in_guest() {
    await "${SECONDS_IN_GUEST:-60}" "$1 did not finish line $2" \
        grep -qs "^guest: $2 ended" "$logs/guest-$1.log"
    grep -q "^guest: $2 ended 0" "$logs/guest-$1.log" || known failed_line "$1" "$2"
}

trace() {
    trace_name=$1
    shift
    trace_file=/tmp/$trace_name.bin
    trace_command="xentrace $* $trace_name.bin"
    {
        # xentrace reports buffer sizes and lost records here.
        xentrace "$@" "$trace_file" >"/tmp/$trace_name.log" 2>&1 &
    }
    trace_pid=$!
    await 20 "xentrace did not begin $trace_name" trace_begun
    clock pairs 3 >"/tmp/$trace_name.pairs"
    say "tracing $trace_name"
}

# Xen allocates its buffers before xentrace creates the file, so tracing runs once the file exists.
trace_begun() {
    kill -0 $trace_pid 2>/dev/null || give_up "xentrace ended: $(cat "/tmp/$trace_name.log")"
    [ -e "$trace_file" ]
}

traced() {
    clock pairs 3 >>"/tmp/$trace_name.pairs"
    kill -INT $trace_pid 2>/dev/null
    await 30 "xentrace did not end" sh -c "! kill -0 $trace_pid 2>/dev/null"
    facts >"/share/$trace_name.facts"
    cat "$trace_file" >"/share/$trace_name.bin"
    cp "/tmp/$trace_name.pairs" "/tmp/$trace_name.log" /share/
    say "traced $trace_name: $(stat -c %s "$trace_file") bytes"
}

facts() {
    echo "command $trace_command"
    xl info | sed -n 's/^\(xen_version\|xen_scheduler\|nr_cpus\|release\|cc_compile_date\) *: /\1 /p'
    echo "boot $(cat /proc/sys/kernel/random/boot_id)"
    xl list | awk 'NR > 1 { print "domain", $2, $1, $4 }'
    # The columns are name, id, vCPU, pCPU, state, time, hard and soft affinity.
    xl vcpu-list | awk 'NR > 1 { print "vcpu", $2, $3, $(NF - 2) }'
}

# Evaluate in dom0 or in a Linux guest: from then on, upcalls prints how many upcalls that kernel has had.
counting='cd /sys/kernel/tracing; echo p:upcall xen_evtchn_do_upcall >kprobe_events;'
counting="$counting echo 1 >events/kprobes/upcall/enable; cd /;"
counting="$counting upcalls() { awk '{ print \"upcalls\", \$2 }' /sys/kernel/tracing/kprobe_profile; }"

# Likewise: from then on, handled PATTERN prints how many interrupts with matching names that kernel has handled.
handling='handled() { awk -v names="$1" '"'"'$0 ~ names { for (i = 2; $i ~ /^[0-9]+$/; i++) sum += $i }'
handling="$handling"' END { print "handled", sum + 0 }'"'"' /proc/interrupts; }'

# A bridge between the guests; dom0 has 10.0.0.1.
bridge() {
    brctl addbr br0
    ip addr add 10.0.0.1/24 dev br0
    ip link set br0 up
}

# disk FILE MIB: a loop device filled with a pattern; its path is in $disk.
disk() {
    yes xtrace | head -c $(($2 << 20)) >"$1"
    disk=$(losetup -f)
    losetup "$disk" "$1"
}
