# xtrace record with the xentrace backend, as scenarios begin and end it.
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

