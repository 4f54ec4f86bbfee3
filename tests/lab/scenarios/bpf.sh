# pcpus: 2
# limit: 240
# full: yes
# bcc in dom0 counts upcalls while a trace runs.
cat >/share/upcalls.bpf.c <<'C'
BPF_ARRAY(calls, u64, 1);
int upcall(struct pt_regs *context)
{
    calls.increment(0);
    return 0;
}
C
cat >/share/upcalls.py <<'PYTHON'
import os, signal
from bcc import BPF

program = BPF(src_file="/share/upcalls.bpf.c")
program.attach_kprobe(event="xen_evtchn_do_upcall", fn_name="upcall")
with open("/share/attached.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("/share/attached.new", "/share/attached")
signal.sigwait({signal.SIGTERM})
print(program["calls"][0].value)
PYTHON
# SIGTERM is blocked before the program starts, so that it stays pending until sigwait.
full python3 -c 'import signal, os
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.execvp("python3", ["python3", "/share/upcalls.py"])' >/share/calls 2>/share/bcc.log &
await 120 "bcc did not attach" [ -e /share/attached ]
trace bpf -D -e all -S 256
sleep 2
traced
kill -TERM "$(cat /share/attached)"
await 20 "bcc did not end" [ -s /share/calls ]
known bcc_upcalls "$(cat /share/calls)"
