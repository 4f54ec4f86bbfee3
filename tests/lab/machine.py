"""Run the emulated host: QEMU's TCG, which needs no hardware virtualisation.

README.md explains each choice, with measurements.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from lab.packages import LabError

_XEN_WORDS = "console=com1 com1=115200,8n1 loglvl=info bootscrub=0 noreboot"
_LINUX_WORDS = "console=hvc0 quiet nokaslr mitigations=off cryptomgr.notests"
_POLL_S = 0.1
_END_LIMIT_S = 10


@dataclass(frozen=True, slots=True)
class Host:
    """Configuration of the emulated machine.

    Attributes:
        pcpus: number of pCPUs.
        xen_words: added to Xen's command line.
        memory_mib: the machine's memory.
        dom0_mib: dom0's part of it.
        disk: the disk of the full image, or None.
        wheel: the disk of the installed wheel, which is mounted in the full userland, or None.
        xen: our own build of the hypervisor, or None for the image's.
        cpu: QEMU's CPU model and its flags.
        accelerator: QEMU's -accel value.
        icount: QEMU's -icount value, with which time follows the instruction count and not the clock; or "".
    """

    pcpus: int = 2
    xen_words: str = ""
    memory_mib: int = 1536
    dom0_mib: int = 512
    disk: Path | None = None
    wheel: Path | None = None
    xen: Path | None = None
    cpu: str = "max,-smap,-xsave"
    accelerator: str = "tcg,thread=multi"
    icount: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a run.

    Attributes:
        in_time: False if it was killed at the limit.
        code: QEMU's exit code.
        wall_s, cpu_s: wall and CPU time; cpu_s shows whether the run or the machine was slow.
    """

    in_time: bool
    code: int
    wall_s: float
    cpu_s: float


def full(host: Host, disk: Path, wheel: Path | None = None) -> Host:
    """Return ``host`` with the full image's disks, and with memory for compilers in dom0."""
    return replace(host, disk=disk, wheel=wheel, memory_mib=max(host.memory_mib, 3072), dom0_mib=2048)


def command(host: Host, image: Path, share: Path) -> list[str]:
    """Return QEMU's command line; its first serial port is Xen's console.

    Raises:
        LabError: QEMU is not installed.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise LabError("qemu-system-x86_64 is missing; as root: apt-get install qemu-system-x86")
    dom0_memory = f"dom0_mem={host.dom0_mib}M,max:{host.dom0_mib}M"
    disks = [disk for disk in (host.disk, host.wheel) if disk is not None]
    return [
        qemu,
        *("-machine", "q35", "-accel", host.accelerator, "-cpu", host.cpu),
        *(("-icount", host.icount) if host.icount else ()),
        *("-smp", str(host.pcpus), "-m", str(host.memory_mib)),
        *("-display", "none", "-nodefaults", "-no-reboot"),
        *(
            "-kernel",
            str(host.xen or image / "xen"),
            "-append",
            f"{_XEN_WORDS} {dom0_memory} {host.xen_words}",
        ),
        *("-initrd", f"{image / 'vmlinux'} {_LINUX_WORDS},{image / 'dom0.cpio'}"),
        *("-virtfs", f"local,path={share},mount_tag=share,security_model=none,multidevs=remap"),
        *("-device", "virtio-rng-pci"),
        *(word for number, disk in enumerate(disks) for word in _drive(number, disk)),
    ]


def _drive(number: int, disk: Path) -> tuple[str, ...]:
    drive = f"file={disk},format=raw,if=none,id=disk{number},snapshot=on"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive=disk{number}"


def run(host: Host, image: Path, share: Path, limit_s: float) -> Ran:
    """Boot, and wait for the job's exit status or for QEMU to end; the console goes to share/serial.log.

    The status is the last thing that dom0 writes, and it goes straight to the host's file, so waiting for the
    power-off would only take time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    line = [*command(host, image, share), "-serial", f"file:{share / 'serial.log'}"]
    in_time = True
    with (share / "qemu.log").open("wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None and not (share / "status").exists():
                if time.monotonic() - begin > limit_s:
                    in_time = False
                    break
                time.sleep(_POLL_S)
        finally:
            _end(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(in_time, process.returncode, time.monotonic() - begin, cpu_s)


def shell(host: Host, image: Path, share: Path) -> int:
    """Boot with the console on this terminal and return QEMU's exit code; ctrl-a x ends it."""
    line = [*command(host, image, share), "-serial", "mon:stdio"]
    return subprocess.call(line)


def version() -> str:
    """Return QEMU's version, such as "7.2.22"."""
    said = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    return said.split()[3]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
