# pcpus: 4
# xen: sched=credit2 dom0_max_vcpus=2
# limit: 400
# own: lfence-inline
# Two guests that ping each other, under the credit2 scheduler on 4 pCPUs.
hold_own_pair lfence-inline "pings=101 seconds=1 timer=10000 burst=50 work=1000 log=400"
trace sched-credit2 -D -e all -S 128
run_own_pair
traced
