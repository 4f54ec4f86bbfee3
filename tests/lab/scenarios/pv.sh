# pcpus: 2
# limit: 300
# Two PV guests with known amounts of block, network and console traffic at the same time.
BLOCKS=211 PINGS=101 LINES=307
in_guests() { for name in a b; do in_guest $name "$1"; done; }

bridge
disk /tmp/disk.img 4
guest a pv "disk=[\"phy:$disk,xvda,r\"]" 'vif=["bridge=br0,mac=00:16:3e:00:00:0a"]'
guest b pv 'vif=["bridge=br0,mac=00:16:3e:00:00:0b"]'
in_guest a 'ip addr add 10.0.0.10/24 dev eth0; ip link set eth0 up'
in_guest b 'ip addr add 10.0.0.11/24 dev eth0; ip link set eth0 up'
in_guest a 'until ping -c 1 -W 1 10.0.0.11 >/dev/null; do sleep 1; done'
in_guests "$counting; $handling"
eval "$handling"

block_requests() { cat "/sys/bus/xen-backend/devices/vbd-$(domid a)-51712/statistics/rd_req"; }
packets_of_a() { cat "/sys/class/net/vif$(domid a).0/statistics/rx_packets"; }
# Count the interrupts that the network and disk drivers handled: a driver that is awake is sent no further events.
from_guest() { known "handled_of $1" "$(handled "$2")"; }
from_guests() {
    from_guest a "blkif-backend|vif$(domid a)[.]0"
    from_guest b "vif$(domid b)[.]0"
    in_guests "handled 'blkif|vif'"
}

blocks_before=$(block_requests)
packets_before=$(packets_of_a)
# Poll less often: dom0's own processes are most of the trace of a quiet host.
POLL_US=500000
in_guests upcalls
trace pv -D -e all -S 256
in_guests upcalls
from_guests
begin_in_guest b "i=0; while [ \$i -lt $LINES ]; do echo line \$i; i=\$((i+1)); done"
of_b=$number
begin_in_guest a "dd if=/dev/xvda of=/dev/null bs=4096 count=$BLOCKS iflag=direct 2>/dev/null; ping -q -c $PINGS -i 0.01 10.0.0.11 >/dev/null"
end_in_guest a "$number"
end_in_guest b "$of_b"
# After both have ended: pings from a wake b long after b's last line.
from_guests
in_guests upcalls
traced
in_guests upcalls
known block_requests $(($(block_requests) - blocks_before))
known packets_of_a $(($(packets_of_a) - packets_before))
for name in a b; do
    for what in upcalls handled; do
        known $what $name $(tr -d '\r' <$logs/guest-$name.log | sed -n "s/^$what //p")
    done
done
known console_lines "$(grep -c '^line ' $logs/guest-b.log)"
cp $logs/guest-*.log /share/
