# pcpus: 2
# limit: 420
# own: lfence-inline none-inline
# The same work by guests without fences and by guests with them, each pair in a trace of its own.
words="pings=211 loops=6000 timer=10000 burst=50 work=400"
trace cost-none -D -e all -S 128
own_pair none-inline "$words"
traced
for name in a b; do
    mv /share/guest-$name.log /share/plain-$name.log
    known plain $name "$(eval echo \$$name)"
    await 30 "$name is still there" sh -c "! xl domid $name 2>/dev/null"
done
# The next pair's ends are waited for in logs of the same names.
rm -f "$logs"/guest-?.log
trace cost -D -e all -S 128
own_pair lfence-inline "$words"
traced
