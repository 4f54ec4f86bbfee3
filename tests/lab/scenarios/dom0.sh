# pcpus: 2
# limit: 90
# dom0 without guests: markers whose number, order and time are known.
eval "$counting"
trace dom0 -D -e all -S 64
before=$(upcalls)
clock marks 0x7a 61 >/share/marks
sleep 1
known upcalls $(($(upcalls | cut -d' ' -f2) - ${before#* }))
known marks "$(wc -l </share/marks)"
traced
