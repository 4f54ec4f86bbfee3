# pcpus: 2
# limit: 1500
# full: yes
# zipapp: yes
# xtrace record with the xentrace backend: what it records, and each fault that needs a real Xen.
xt() { full python3 /share/xtrace.pyz "$@"; }

# record NAME OPTION...: run it to its end; the exit code goes to known, the captures to /tmp.
record() {
    what=$1
    shift
    code=0
    attempt 200 chroot /full /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp \
        python3 /share/xtrace.pyz record --backend xentrace -o "${record_in:-/tmp}/$what" "$@" >"/share/$what.said" 2>&1 || code=$?
    known code "$what" $code
    say "recorded $what: $code"
}

begin() {
    what=$1
    shift
    record "$what" "$@" &
    recording=$!
    await 120 "$what did not begin: $(cat "/share/$what.said")" grep -qs "recording by" "/share/$what.said"
}

recorder() { cat /run/xtrace/lock; }

keep() { for name in "$@"; do cp -r "/tmp/$name.xtrace" /share/; done; }

# If tracing was left on, Xen's buffers have records from before the time in NAME.before.
left_on() {
    sleep 2
    clock pairs 1 >"/share/$1.before"
    xentrace -e all "/tmp/$1.after" >/dev/null 2>&1 &
    sleep 1
    kill -INT $!
    wait $!
    cp "/tmp/$1.after" /share/
}

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
