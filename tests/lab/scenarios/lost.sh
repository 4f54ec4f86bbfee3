# pcpus: 2
# limit: 150
# own: lfence-inline
# Losses: the smallest rings, and a recorder that is stopped twice while two guests ping.
trace lost -D -e all -S 1
own_pair lfence-inline "pings=211 seconds=1 timer=10000 burst=50 work=1000"
for stop in 1 2; do
    kill -STOP $trace_pid
    sleep 1
    kill -CONT $trace_pid
    sleep 1
done
traced
