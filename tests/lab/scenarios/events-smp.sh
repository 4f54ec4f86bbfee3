# pcpus: 2
# event-records: yes
# limit: 300
# PV and PVH guests with two vCPUs each: idle, then busy on both, with console output and sleeps.
MEMORY=128
VCPUS=2
guest a pv
guest b pvh
trace events-smp -D -e all -S 256
in_guest a 'sleep 2'
work='i=0; while [ $i -lt 150 ]; do echo line $i; usleep 1000; i=$((i+1)); done'
begin_in_guest b "( $work ) & $work; wait"
of_b=$number
in_guest a "( $work ) & $work; wait"
end_in_guest b "$of_b"
traced
cp $logs/guest-*.log /share/
