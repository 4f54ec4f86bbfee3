# pcpus: 2
# xen: sched=rtds
# schedulers: yes
# limit: 240
# own: lfence-inline
# Two guests that ping each other, under the RTDS scheduler with its default budget of 4 ms in 10 for each vCPU.
hold_own_pair lfence-inline "pings=101 seconds=1 timer=10000 burst=50 work=1000 log=400"
xl sched-rtds >/share/scheduling
trace sched-rtds -D -e all -S 128
run_own_pair
traced
