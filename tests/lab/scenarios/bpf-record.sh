# pcpus: 2
# limit: 420
# full: yes
# zipapp: yes
# xtrace record in dom0 with every backend, during a known amount of work: pings, block requests, hypercalls.
BLOCKS=211 PINGS=101

bridge
disk /tmp/disk.img 4
guest a pv "disk=[\"phy:$disk,xvda,r\"]" 'vif=["bridge=br0,mac=00:16:3e:00:00:0a"]'
in_guest a 'ip addr add 10.0.0.10/24 dev eth0; ip link set eth0 up'
await 30 "the guest does not answer pings" ping -c 1 -W 1 10.0.0.10

block_requests() { cat "/sys/bus/xen-backend/devices/vbd-$(domid a)-51712/statistics/rd_req"; }
packets_to_a() { cat "/sys/class/net/vif$(domid a).0/statistics/tx_packets"; }
packets_of_a() { cat "/sys/class/net/vif$(domid a).0/statistics/rx_packets"; }

# Not on the share: xentrace cannot write pages that belong to Xen through 9p.
begin_record() {
    full sh -c "echo \$\$ >/tmp/record.pid
        XTRACE_RUN_DIR=/run/xtrace exec python3 /share/xtrace.pyz record --timing emulated -o /tmp/$name $*" \
        >"/share/$name.said" 2>&1 &
    record_job=$!
    await 150 "$name did not begin: $(cat "/share/$name.said")" grep -q "recording by" "/share/$name.said"
    known began "$name" "$(sed -n 's/.*recording by //p' "/share/$name.said")"
}

# end_record SIGNAL
end_record() {
    kill "-$1" "$(cat /tmp/record.pid)"
    await 60 "$name did not end" sh -c "! kill -0 $record_job 2>/dev/null"
    known said "$name" "$(tail -n 1 "/share/$name.said")"
    cp -r "/tmp/$name.xtrace" /share/
}

# Have the kernel measure the run time of each bpf program.
echo 1 >/proc/sys/kernel/bpf_stats_enabled
name=bpf-record
begin_record --events
blocks_before=$(block_requests)
to_before=$(packets_to_a) of_before=$(packets_of_a)
in_guest a "dd if=/dev/xvda of=/dev/null bs=4096 count=$BLOCKS iflag=direct 2>/dev/null"
ping -q -c $PINGS -i 0.02 10.0.0.10
for i in 1 2 3 4 5; do xl list >/dev/null; done
known block_requests $(($(block_requests) - blocks_before))
known packets_to_a $(($(packets_to_a) - to_before))
known packets_of_a $(($(packets_of_a) - of_before))
known domid_a "$(domid a)"
end_record INT
echo 0 >/proc/sys/kernel/bpf_stats_enabled

# Killed while it records: no probes may be left in the kernel, and the written part must be readable.
name=killed
begin_record --backend bpf --events
sleep 3
end_record KILL
sleep 1
known kprobe_events "$(wc -c </sys/kernel/tracing/kprobe_events)"
known kprobes_left "$(grep -c . /sys/kernel/debug/kprobes/list)"
