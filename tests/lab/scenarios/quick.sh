# pcpus: 2
# limit: 240
# own: lfence-inline
# The scenario that is run for each change: markers of dom0, and two guests that ping each other and count.
trace quick -D -e all -S 128
clock marks 0x7a 61 >/share/marks
known marks "$(wc -l </share/marks)"
own_pair lfence-inline "pings=101 seconds=1 timer=10000 burst=50 work=1000"
traced
