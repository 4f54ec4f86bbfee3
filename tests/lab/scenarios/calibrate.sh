# pcpus: 2
# limit: 420
# full: yes
# wheel: yes
# own: lfence-inline
# The wheel as installed by pip for dom0's Python: record, report, sites, and calibrate with emulated timing.
elf=/share/guest-lfence-inline.elf

# run NAME COMMAND...: output goes to NAME.out and NAME.err, the exit status to known.
run() {
    name=$1
    shift
    say "$name"
    full timeout -s KILL 150 "$@" >"/tmp/$name.out" 2>"/tmp/$name.err"
    known code "$name" $?
    cp "/tmp/$name.out" "/tmp/$name.err" /share/
}

full xtrace record --backend xentrace -S 128 -o /tmp/calibrate >/share/record.said 2>&1 &
recording=$!
await 90 "the recording did not begin: $(cat /share/record.said)" grep -qs "recording by" /share/record.said
own_pair lfence-inline "pings=101 loops=1000 timer=10000 burst=50 work=400"
kill -INT "$(cat /run/xtrace/lock)"
wait $recording
known code record $?
cp -r /tmp/calibrate.xtrace /share/

run version xtrace --version
run bcc /opt/xtrace/bin/python3 -c 'import bcc, xtrace.cli; print(bcc.__file__)'
cat >/tmp/loops.py <<'PYTHON'
from importlib.util import find_spec

from xtrace.probes.compiled import library

print(library.how(), library.loaded()._name, find_spec("numba"))
PYTHON
run loops /opt/xtrace/bin/python3 /tmp/loops.py
run report xtrace report --json /tmp/calibrate.xtrace
run sites xtrace sites --json $elf
run plain xtrace calibrate --quick -o /tmp/plain.json
run image xtrace calibrate --quick --json $elf
cp /tmp/plain.json /share/

# The same with the emulator's name hidden: the times themselves must show it.
cat >/tmp/unnamed.py <<'PYTHON'
from xtrace.probes.timing import this_host

this_host.emulation = lambda *_: ""
from xtrace.cli.start import main

main()
PYTHON
run unnamed /opt/xtrace/bin/python3 /tmp/unnamed.py calibrate --quick --json $elf

# And with the checks of times disabled too: which code of the image runs, and in what process.
cat >/tmp/believed.py <<'PYTHON'
import sys
from pathlib import Path

from xtrace.analysis.calibrate import run as calibrate
from xtrace.probes.timing import this_host

this_host.emulation = lambda *_: ""
calibrate._implausible = lambda *_: ""
calibrate._noise = lambda *_: ()


class Watched(calibrate.Session):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        sys.stderr.write(f"child: confined {self.confined}\n")
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            sys.stderr.write(f"child: {line}\n")


calibrate.Session = Watched
from xtrace.cli.start import main

main()
PYTHON
run believed /opt/xtrace/bin/python3 /tmp/believed.py calibrate --quick --json $elf
