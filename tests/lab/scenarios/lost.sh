# pcpus: 2
# limit: 150
# own: lfence-inline
# Lost records: the smallest rings, and a recorder that is stopped twice while two guests ping each other.
hold_own_pair lfence-inline "pings=211 seconds=3 timer=10000 burst=50 work=1000"
trace lost -D -e all -S 1
start_own_pair
for stop in 1 2; do
    kill -STOP $trace_pid
    sleep 1
    kill -CONT $trace_pid
    usleep 500000
done
end_own_pair
traced
