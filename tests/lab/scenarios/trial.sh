# pcpus: 1
# limit: 2400
# full: yes
# wheel: yes
# own: lfence-outofline lfence-inline none-outofline
# Trials of guest a while b pings it: to their end, refused, killed, and with the guest destroyed.
image=/share/guest-lfence-outofline.elf
counter=counters+0x88
pings=2003

# run NAME COMMAND...: output goes to NAME.out and NAME.err, the exit status to known.
run() {
    name=$1
    shift
    say "$name"
    full timeout -s KILL 400 "$@" >"/share/$name.out" 2>"/share/$name.err"
    known code "$name" $?
}

words="seconds=100000 timer=20000 burst=5 work=2000 pings=$pings"
own_guest a lfence-outofline "extra=\"role=listen $words\""
own_guest b lfence-inline "extra=\"role=connect $words\""
a=$(domid a) b=$(domid b)

# What does not begin a trial, in one process: in emulation, to import it all takes a minute.
cat >/tmp/refused.py <<'PYTHON'
import contextlib
import sys

from xtrace.cli.main import main
from xtrace.probes.trial.xen.libraries import Xen

image, counter, domain = sys.argv[1:]
other = "/share/guest-none-outofline.elf"
xen = Xen()


def run(name, *arguments, file=image):
    with (
        open(f"/share/{name}.out", "w") as out,
        open(f"/share/{name}.err", "w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(["trial", "--image", file, "--counter", counter, *arguments])
    with open("/share/known", "a") as known:
        known.write(f"code {name} {code}\n")


run("said", domain)
run("dry", "--dry-run", domain)
run("dom0", "--really", "0")
run("other", "--really", domain, file=other)
xen.pause(int(domain))
run("paused", "--really", domain)
xen.unpause(int(domain))
PYTHON
run refused /opt/xtrace/bin/python3 /tmp/refused.py $image $counter "$a"

full xtrace trial --image $image --counter $counter --really -d 20m --precision 0.001 --slice 20ms \
    -o /tmp/whole.json a >/share/whole.out 2>/share/whole.err &
job=$!
# The journal begins with the number of the arm written last: once it is the last one, all have been.
await 300 "the trial did not begin" grep -qs "^ *2 " "/run/xtrace/domain-$a.trial"
run second xtrace trial --image $image --counter $counter --really a
# By another name than the scenario's: it does not have the guests' whole lives.
trace pinged -D -e all -S 1024
type_to a "peer=$b"
await 60 "a did not print its port" grep -qs "^xtrace-guest: port" $logs/guest-a.log
type_to b "peer=$a port=$(sed -n 's/^xtrace-guest: port \([0-9]*\).*/\1/p' $logs/guest-a.log)"
pinged() {
    for name in a b; do type_to $name report; done
    sleep 1
    for name in a b; do
        tail -qn 1 $logs/guest-$name.log | grep -q "\"ping_event\": $pings" || return 1
    done
}
await 300 "the pings did not end" pinged
traced
for process in /proc/[0-9]*; do
    tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -q "xtrace trial" && kill -INT "${process#/proc/}"
done
wait $job
known code whole $?
cp /tmp/whole.json /share/

cat >/tmp/kills.py <<'PYTHON'
import os
import random
import signal
import sys
import time
from pathlib import Path

from xtrace.probes.trial import journal
from xtrace.probes.trial.xen.domain import DomainTarget
from xtrace.probes.trial.xen.memory import DomainMemory
from xtrace.probes.trial.mapped_image import Code, difference_of, without_page
from xtrace.probes.trial.restore import restore_all
from xtrace.probes.trial.target import Patch, TrialError
from xtrace.probes.trial.xen.libraries import Xen
from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.patching.plan import plan

domain, path = int(sys.argv[1]), Path(sys.argv[2])
image = open_image(path)
table = find_sites(image, lines=False)
code = [
    piece
    for item in image.code
    for piece in without_page(Code(item.address, item.offset, bytes(item.data)), table.facts.hypercall_page)
]
patches = [
    Patch(item.address, item.original, (item.original, item.removed))
    for item in plan(image, table, {Verdict.REMOVABLE, Verdict.REPLACEABLE}).exchanges
]
xen = Xen()
memory = DomainMemory(xen, domain)


def say(*words):
    print(*words, flush=True)


def switching(times, pipe=-1):
    """Exchange to and fro; return what ended it."""
    target = DomainTarget(domain, path, code, [])
    try:
        target.open(patches)
        if pipe >= 0:
            os.write(pipe, b"%d\n" % target.watchdog_pid)
        for number in range(times):
            target.switch(number % 2)
            target.wait(random.uniform(0, 0.004))
    except TrialError as error:
        return str(error)
    finally:
        target.close()
    return ""


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def killed(victim, after_s):
    read, write = os.pipe()
    trial = os.fork()
    if not trial:
        try:
            os.write(write, switching(1 << 30, write).encode())
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as said:
        watchdog = int(said.readline())
        while journal.parsed(next(journal.left()).read_bytes(), path).arm < 0:
            time.sleep(0.001)
        time.sleep(after_s)
        for pid in {"trial": [trial], "watchdog": [watchdog], "both": [watchdog, trial]}[victim]:
            os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        os.waitpid(trial, 0)
        if victim == "both":
            while not ended(watchdog):
                time.sleep(0.001)
            restore_all()
        while list(journal.left()) and time.monotonic() - begin < 60:
            time.sleep(0.001)
        took_s = time.monotonic() - begin
        is_built = not difference_of(memory, 0, code)
        say("kill", victim, f"{took_s:.3f}", is_built, xen.info(domain).is_paused, said.read().strip())


draw = random.Random(1)
for number in range(int(sys.argv[3])):
    killed(("trial", "watchdog", "both")[number % 3], draw.uniform(0, 0.3))

say("destroy it")
memory.close()
say("destroyed:", switching(1 << 30))
say("left", len(list(journal.left())))
PYTHON
run kills /opt/xtrace/bin/python3 /tmp/kills.py "$a" $image 12 &
job=$!
await 400 "the kills did not end" grep -qs "^destroy it" /share/kills.out
await 60 "the last trial did not begin" grep -qs "^ *1 " "/run/xtrace/domain-$a.trial"
for name in a b; do type_to $name report; done
sleep 1
attempt 60 xl destroy a
wait $job
known gone "$(xl list "$a" >/dev/null 2>&1 && echo no || echo yes)"
type_to b quit
cp $logs/guest-?.log /share/
