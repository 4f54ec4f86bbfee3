# pcpus: 2
# limit: 300
# own: none-inline
# Domains that come and go while tracing: three that end by themselves, one that is destroyed.
trace lifecycle -D -e all -S 128
for name in first second third; do
    own_guest $name none-inline 'extra="loops=1009 work=100"'
    await 30 "$name did not finish" grep -qs "^xtrace-guest: done" $logs/guest-$name.log
done
own_guest fourth none-inline 'extra="seconds=600 timer=10000 burst=10"'
sleep 1
known destroyed fourth "$(domid fourth)"
xl destroy fourth
sleep 1
cp $logs/guest-*.log /share/
traced
