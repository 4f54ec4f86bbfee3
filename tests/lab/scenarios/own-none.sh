# pcpus: 2
# limit: 240
# own: none-inline
# Two of our own guests, without fences, ping each other 1009 times; each counts what it does and logs every upcall.
hold_own_pair none-inline "pings=1009 seconds=1 timer=10000 burst=50 work=1000 log=2000"
trace own-none -D -e all -S 128
run_own_pair
traced
