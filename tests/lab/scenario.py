"""Run scenarios: shell scripts for dom0 in scenarios/, whose first comment lines describe the host.

``# pcpus: 2``; ``# xen: sched=credit``, words for Xen; ``# limit: 90``, seconds, including the boot;
``# memory: 2048``, MiB; ``# own: none-inline lfence-inline``, variants of tests/lab/guest to build;
``# full: yes``, with the full image's disk; ``# schedulers: yes``, with a Xen that has all schedulers;
``# event-records: yes``, with such a Xen that records the delivery of event channels;
``# like: pv``, with the script and the requirements of another scenario, and its own before them;
``# part: recording``, with the functions of parts/recording.sh;
``# untraced: yes``, with a Xen that has no trace buffer;
``# zipapp: yes``, with this checkout's xtrace as /share/xtrace.pyz;
``# wheel: yes``, with its wheel installed in the full image, whose command is xtrace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from lab import image as images
from lab import machine
from lab.disk import disk
from lab.hypervisor import EVENT_RECORDS, hypervisor
from lab.machine import Host, Ran
from lab.packages import LabError
from lab.untraced import untraced
from lab.wheel import wheel_disk

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_FOLDER = _HERE / "scenarios"
_HEADER = re.compile(
    r"^# (pcpus|xen|limit|memory|own|full|schedulers|event-records|like|untraced|zipapp|wheel|part): (.*)$",
    re.MULTILINE,
)
_JOB = ". /lib/lab.sh\n. /share/scenario.sh\n"
_MHZ = re.compile(r"Detected ([\d.]+) MHz processor")
_BUILD_LIMIT_S = 60
_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Scenario:
    """One script and its requirements.

    Attributes:
        name: the script's name, without the extension.
        host: the emulated machine.
        limit_s: time limit from boot to the end of the job, in seconds.
        variants: variants of our own guest to build.
        zipapp: whether to build xtrace.pyz.
        text: the script.
    """

    name: str
    host: Host
    limit_s: int
    variants: tuple[str, ...]
    zipapp: bool
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scenario.

    Attributes:
        status: "ok", "retried" (a guest was created only at the second try) or what went wrong.
        ran: the result of the emulator's run.
        folder: the folder with its files.
    """

    status: str
    ran: Ran
    folder: Path

    @property
    def passed(self) -> bool:
        """Return whether the scenario completed."""
        return self.status in ("ok", "retried")


def names() -> list[str]:
    """Return the names of all scenarios."""
    return sorted(path.stem for path in _FOLDER.glob("*.sh"))


def load(name: str) -> Scenario:
    """Read a scenario; build the disks and hypervisors that it requires.

    Raises:
        LabError: there is no such scenario, or a build fails.
    """
    text = _text(name)
    wants = dict(_HEADER.findall(text))
    if "like" in wants:
        other = _text(wants["like"])
        text = text + other.replace(f"trace {wants['like']} ", f"trace {name} ")
        wants = {**dict(_HEADER.findall(other)), **wants}
    if "part" in wants:
        text = (_HERE / "parts" / f"{wants['part']}.sh").read_text() + text
    host = Host(pcpus=int(wants.get("pcpus", 2)), xen_words=wants.get("xen", ""))
    if "memory" in wants:
        host = replace(host, memory_mib=int(wants["memory"]))
    if wants.get("full") == "yes":
        host = machine.full(host, disk(), wheel_disk(python()) if wants.get("wheel") == "yes" else None)
    if wants.get("schedulers") == "yes":
        host = replace(host, xen=hypervisor() / "xen")
    if wants.get("event-records") == "yes":
        host = replace(host, xen=hypervisor(EVENT_RECORDS) / "xen")
    if wants.get("untraced") == "yes":
        host = replace(host, xen=untraced(images.image()))
    limit_s, variants = int(wants.get("limit", _LIMIT_S)), tuple(wants.get("own", "").split())
    return Scenario(name, host, limit_s, variants, wants.get("zipapp") == "yes", text)


def _text(name: str) -> str:
    path = _FOLDER / f"{name}.sh"
    if not path.is_file():
        raise LabError(f"no such scenario: {name}; the scenarios are {', '.join(names())}")
    return path.read_text()


def python() -> str:
    """Return the Python with xtrace's dependencies: $XTRACE_LAB_PYTHON, or that of ./run."""
    return os.environ.get("XTRACE_LAB_PYTHON") or str(_ROOT / ".venv" / "bin" / "python")


def run(scenario: Scenario, image: Path, folder: Path) -> Outcome:
    """Run ``scenario`` with its results in ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for variant in scenario.variants:
        _build(f"our own guest {variant}", "sh", _HERE / "guest" / "build.sh", folder, *variant.split("-"))
    if scenario.zipapp:
        _build("xtrace.pyz", python(), _ROOT / "tools" / "zipapp.py", folder / "xtrace.pyz")
    (folder / "scenario.sh").write_text(scenario.text)
    (folder / "job").write_text(_JOB)
    ran = machine.run(scenario.host, image, folder, scenario.limit_s)
    for facts in folder.glob("*.facts"):
        _write_sidecar(facts, scenario)
    outcome = Outcome(_status(folder, ran), ran, folder)
    (folder / "outcome").write_text(f"{outcome.status}\n")
    return outcome


def _build(what: str, *command: str | Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_LIMIT_S)
    except FileNotFoundError:
        raise LabError(f"{what} needs {command[0]}; create it with ./run test --version") from None
    if done.returncode:
        raise LabError(f"building {what} failed: {done.stderr.strip()}")


def _status(folder: Path, ran: Ran) -> str:
    status = folder / "status"
    known = folder / "known"
    if status.exists():
        code = status.read_text().strip()
        if code != "0":
            return f"exit {code}"
        return "retried" if known.exists() and "\nfailed " in f"\n{known.read_text()}" else "ok"
    reached = "in the job" if (folder / "state").exists() else "before dom0 was ready"
    if not ran.in_time:
        return f"limit, {reached}"
    return f"QEMU exit {ran.code}, {reached}"


def _write_sidecar(facts: Path, scenario: Scenario) -> None:
    """Write NAME.bin.json: the facts that a trace lacks, for xtrace.probes.capture.sidecar, and more."""
    rows = [line.split(" ", 1) for line in facts.read_text().splitlines() if " " in line]
    said = dict(rows)
    domains = [value.split() for key, value in rows if key == "domain"]
    vcpus = [value.split() for key, value in rows if key == "vcpu"]
    pairs = facts.with_suffix(".pairs")
    console = facts.with_name("serial.log").read_text(errors="replace")
    mhz = _MHZ.search(console)
    if mhz is None:
        raise LabError(f"{facts.parent / 'serial.log'}: Xen did not print the processor's frequency")
    content = {
        "tsc_hz": round(float(mhz[1]) * 1e6),
        "xen_version": ".".join(said["xen_version"].split(".")[:2]),
        "xen_release": said["xen_version"],
        "timing": "emulated",
        "emulator": f"QEMU {machine.version()}, {scenario.host.accelerator}",
        "scenario": scenario.name,
        "scheduler": said["xen_scheduler"],
        "pcpus": int(said["nr_cpus"]),
        "dom0_kernel": said["release"],
        "boot_id": said["boot"],
        "command": said["command"],
        "domains": [{"id": int(row[0]), "name": row[1], "vcpus": int(row[2])} for row in domains],
        "vcpus": [{"domain": int(row[0]), "vcpu": int(row[1]), "hard_affinity": row[2]} for row in vcpus],
        "clock_pairs": [[int(word) for word in line.split()] for line in pairs.read_text().splitlines()],
    }
    facts.with_suffix(".bin.json").write_text(json.dumps(content, indent=1) + "\n")
