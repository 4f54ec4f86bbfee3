# pcpus: 2
# limit: 300
# A PVH guest, busy and asleep: its exits, injections and event channels.
guest p pvh
trace pvh -D -e all -S 256
in_guest p 'i=0; while [ $i -lt 211 ]; do echo line $i; i=$((i+1)); done'
in_guest p 'sleep 1'
traced
known console_lines "$(grep -c '^line ' $logs/guest-p.log)"
cp $logs/guest-*.log /share/
