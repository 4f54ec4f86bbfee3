# pcpus: 1
# xen: sched=credit
# limit: 240
# own: lfence-inline
# Two guests that ping each other, under the credit scheduler on 1 pCPU.
hold_own_pair lfence-inline "pings=101 seconds=1 timer=10000 burst=50 work=1000 log=400"
trace sched-credit -D -e all -S 512
run_own_pair
traced
