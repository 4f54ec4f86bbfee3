# pcpus: 2
# limit: 1500
# full: yes
# zipapp: yes
# part: recording
# Recordings by xentrace that end badly, or are disturbed: what is kept, what is said, and what is left.
guest a pv
known domid_a "$(domid a)"

notes() { ls /run/xtrace | grep -v "^lock$" | tr "\n" " "; }
finish() { kill -INT "$(recorder)"; wait $recording; keep "$1"; }

# Both at once: nobody is left to switch off tracing, or to write the end.
begin both
sleep 3
kill -KILL "$(recorder)" "$(pidof xentrace)"
wait $recording
keep both
known notes_left "$(notes)"
# The next start takes away what is left, and its end leaves nothing.
record after -d 2
keep after
known xentrace_left "$(pidof xentrace | wc -w)"
known notes_after "$(notes)"
left_on after

# Xen's buffers have one reader: whoever comes second takes records away.
begin joined -e sched
sleep 2
xentrace -e all /tmp/joined.bin >/share/joined.err 2>&1 &
thief=$!
sleep 8
kill -INT $thief
wait $thief
known code thief $?
known thief_bytes "$(stat -c %s /tmp/joined.bin)"
finish joined

begin beside
xt top -b -d 1 -n 2 >/share/top.out 2>/share/top.err
known code top $?
finish beside

# The recorder stands still; xentrace goes on.
begin stopped
sleep 2
kill -STOP "$(recorder)"
sleep 10
kill -CONT "$(recorder)"
sleep 2
finish stopped

begin hung
sleep 2
kill -HUP "$(recorder)"
wait $recording
keep hung

# A domain goes, and comes again with another id.
begin again
attempt 30 xl destroy a
sleep 2
guest a pv
known domid_again "$(domid a)"
sleep 3
finish again

# Too little memory to begin with.
code=0
full sh -c 'ulimit -v 24000; exec python3 /share/xtrace.pyz record --backend xentrace -d 2 -o /tmp/poor' \
    >/share/poor.said 2>&1 || code=$?
known code poor $code
known poor_left "$(ls -d /tmp/poor* 2>/dev/null | wc -l)"
left_on end
