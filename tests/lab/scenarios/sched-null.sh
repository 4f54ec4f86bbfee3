# pcpus: 3
# xen: sched=null dom0_max_vcpus=1
# schedulers: yes
# limit: 240
# own: lfence-inline
# Two guests that ping each other, under the null scheduler, which gives each vCPU its own pCPU.
hold_own_pair lfence-inline "pings=101 seconds=1 timer=10000 burst=50 work=1000 log=400"
trace sched-null -D -e all -S 128
run_own_pair
traced
