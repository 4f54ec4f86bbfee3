# pcpus: 2
# limit: 1500
# full: yes
# zipapp: yes
# part: recording
# xtrace record with the xentrace backend: what it records, and each fault that needs a real Xen.
xt --version >/share/version
known tb_control "$(sed -n "s/ . tb_control$//p" /proc/xen/xensyms)"
guest a pv
known domid_a "$(domid a)"

# Small buffers (their size can be set once per boot); a consumer that is stopped while dom0 works and a guest ends.
begin lost -S 16
sleep 2
kill -STOP "$(pidof xentrace)"
for i in 1 2 3; do
    xl info >/dev/null
    sleep 1
done
kill -CONT "$(pidof xentrace)"
attempt 30 xl destroy a
sleep 2
kill -INT "$(recorder)"
wait $recording
keep lost

record sized -S 64 -d 3
keep sized

# Domains by the names that xenstore has for them.
record called --domain Domain-0 -d 1
record uncalled --domain nobody -d 1

# A second recorder, which is refused, and a step of the time of day.
begin step
record second -d 1
date -s "@$(($(date +%s) + 3600))" >/dev/null
sleep 3
kill -INT "$(recorder)"
wait $recording
keep step

begin killed
sleep 4
kill -KILL "$(recorder)"
wait $recording
sleep 2
known xentrace_left "$(pidof xentrace | wc -l)"
left_on killed
keep killed

# Only xentrace is killed, so that it cannot switch off tracing: the recorder must.
begin died
sleep 2
kill -KILL "$(pidof xentrace)"
wait $recording
left_on died
keep died

xentrace -e all /tmp/foreign.bin >/dev/null 2>&1 &
sleep 1
record foreign -d 1
kill -INT $!
wait $!

# Under /full, because a mount made here after /full/tmp was bound is not visible there.
mkdir /tmp/small
mount -t tmpfs -o size=600k none /full/tmp/small
record_in=/tmp/small
record full --reserve 0 -d 20
cp -r /full/tmp/small/full.xtrace /share/
record_in=/tmp
record bounded --max-size 400K -d 60
keep bounded
record ring -M 1M -d 4
keep ring
record while -- sh -c 'sleep 2; exit 7'
left_on end
