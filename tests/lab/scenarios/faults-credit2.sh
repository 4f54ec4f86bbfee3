# pcpus: 2
# xen: sched=credit2
# limit: 400
# A guest that is busy for a while, once undisturbed and once with a cap of a fifth of a pCPU.
guest a pv
busy() { in_guest a 'timeout 4 sh -c "while :; do :; done"; true'; }
trace calm -D -e all -S 256
busy
traced
xl sched-credit2 -d a -w 512 -c 20
xl sched-credit2 >/share/scheduling
known domid_a "$(domid a)"
trace capped -D -e all -S 256
busy
traced
