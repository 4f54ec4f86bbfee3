# pcpus: 2
# limit: 600
# full: yes
# zipapp: yes
# untraced: yes
# A Xen without a trace buffer: xtrace record says so, and records with the remaining backends.
for what in named default; do
    [ $what = named ] && options="--backend xentrace" || options=
    code=0
    # shellcheck disable=SC2086
    full python3 /share/xtrace.pyz record $options -d 3 -o /tmp/$what >/share/$what.said 2>&1 || code=$?
    known code $what $code
done
[ -e /tmp/named.xtrace ] && known left named
cp -r /tmp/default.xtrace /share/
