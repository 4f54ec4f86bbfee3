# pcpus: 2
# limit: 600
# full: yes
# zipapp: yes
# own: lfence-inline
# xtrace top, stat and doctor in dom0, with its system Python: top over the whole life of two guests that
# ping and count, then all three while another guest has timer ticks and pings itself.
export XTRACE_RUN_DIR=/run/xtrace
xtrace() { full env XTRACE_RUN_DIR=/run/xtrace /usr/bin/python3 /share/xtrace.pyz "$@"; }
events() { awk '/xen-/ { sum = 0; for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i; print substr($1, 1, length($1) - 1), sum }' /proc/interrupts; }

xtrace doctor >/share/doctor.txt 2>/share/doctor.err
known doctor $?
xtrace doctor --json >/share/doctor.json 2>>/share/doctor.err

# top starts before the two guests and ends after them, so it sees all their records.
xtrace top --json -d 2 >/share/top.json 2>/share/top.err &
await 60 "top gave no period: $(cat /share/top.err)" [ -s /share/top.json ]
xtrace doctor --json >/share/doctor-beside.json 2>>/share/doctor.err
own_pair lfence-inline "pings=101 seconds=1 timer=20000 burst=50 work=1000"
gone() { ! xl domid a >/dev/null 2>&1 && ! xl domid b >/dev/null 2>&1; }
await 20 "the guests did not end" gone
sleep 4
# Not INT: background jobs of a script ignore it.
kill -TERM $(pidof python3)
ended() { ! pidof xentrace >/dev/null && ! pidof python3 >/dev/null; }
await 30 "top did not end" ended
known notes "$(ls /run/xtrace | grep -c note)"

own_guest c lfence-inline 'extra="role=self pings=1000003 seconds=100 timer=20000 burst=50 work=1000"'
xtrace top -b -d 2 -n 3 >/share/top.txt 2>>/share/top.err
known top $?
xtrace stat 2 3 >/share/stat.txt 2>/share/stat.err
known stat $?
events >/share/events-before
xtrace top --json -p -d 2 -n 4 >/share/ports.json 2>/share/ports.err
known ports $?
events >/share/events-after
xl destroy c
