# pcpus: 2
# limit: 420
# full: yes
# zipapp: yes
# own: lfence-inline none-inline
# The same work by guests without fences and by guests with them, each pair in its own capture.
words="pings=211 loops=6000 timer=10000 burst=50 work=400"

begin() {
    full python3 /share/xtrace.pyz record --backend xentrace -S 128 -o "/tmp/$1" >"/share/$1.said" 2>&1 &
    recording=$!
    await 90 "$1 did not begin: $(cat "/share/$1.said")" grep -qs "recording by" "/share/$1.said"
}

end() {
    kill -INT "$(cat /run/xtrace/lock)"
    wait $recording
    known code "$1" $?
    cp -r "/tmp/$1.xtrace" /share/
}

begin cost-none
own_pair none-inline "$words"
end cost-none
for name in a b; do
    mv /share/guest-$name.log /share/plain-$name.log
    known plain $name "$(eval echo \$$name)"
    await 30 "$name is still there" sh -c "! xl domid $name 2>/dev/null"
done
# The next pair's logs have the same names, and end_own_pair waits for their last lines.
rm -f "$logs"/guest-?.log
begin cost
own_pair lfence-inline "$words"
end cost
