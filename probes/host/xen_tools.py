"""Read facts about Xen and its domains from xl, xenstore and lsevtchn, as bounded JSON values."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.host.texts import MAX_BYTES, bounded, read
from xtrace.probes.host.xenstore import Xenstore, open_xenstore

_HYPERVISOR = Path("/sys/hypervisor")

_LIMIT_S = 20
_MAX_DOMAINS = 1024
_MAX_PORTS = 4096
_INFO_KEYS = {
    *("host", "release", "machine", "nr_cpus", "nr_nodes", "cores_per_socket", "threads_per_core", "cpu_mhz"),
    *("virt_caps", "total_memory", "xen_version", "xen_extra", "xen_caps", "xen_scheduler"),
    *("xen_changeset", "xen_commandline", "cc_compiler", "cc_compile_date", "build_id"),
}
_PORT = re.compile(r"\s*(\d+): VCPU (\d+): (.*)")
_KINDS = (
    (re.compile(r"Virtual IRQ (\d+)"), ("virq",)),
    (re.compile(r"Physical IRQ (\d+)"), ("pirq",)),
    (re.compile(r"Interdomain \(Connected\) - Remote Domain (\d+), Port (\d+)"), ("domain", "remote_port")),
    (re.compile(r"Interdomain \(Waiting connection\) - Remote Domain (\d+)"), ("domain",)),
)
#: Schedulers whose xl command prints what each domain gets.
_WEIGHING = ("credit", "credit2", "rtds")


def tool(name: str) -> str | None:
    """Return the path of a Xen tool: of the running Xen, of another Xen, or in PATH; None if missing."""
    major, minor = (read(_HYPERVISOR / "version" / part) for part in ("major", "minor"))
    folders = [Path(f"/usr/lib/xen-{major}.{minor}/bin"), *sorted(Path("/usr/lib").glob("xen-*/bin"))[::-1]]
    for path in [folder / name for folder in folders]:
        if os.access(path, os.X_OK) and path.is_file():
            return str(path)
    return shutil.which(name)


def run(name: str, *arguments: str) -> str:
    """Run a Xen tool and return its standard output.

    Raises:
        TraceError: it is missing, fails or does not finish.
    """
    path = tool(name)
    if path is None:
        raise TraceError(f"{name} is missing; apt-get install xen-utils-common, or install your Xen's tools")
    command = [path, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_LIMIT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise TraceError(f"{' '.join(command)}: did not finish within {_LIMIT_S} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip().splitlines()
        raise TraceError(f"{' '.join(command)}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout[:MAX_BYTES].decode("utf-8", "backslashreplace")


def xen_facts() -> dict[str, Any]:
    """Return facts about Xen and its hardware; ``missing`` lists the queries that failed."""
    found: dict[str, Any] = {"missing": []}
    with _missing(found):
        found["info"] = info_of(run("xl", "info"))
    with _missing(found):
        lines = run("xl", "dmesg").splitlines()
        found["tsc_lines"] = [bounded(line) for line in lines if re.search(r"TSC|MHz processor", line)][:40]
    with _missing(found):
        found["topology"] = topology_of(run("xl", "info", "-n"))
    return found


def info_of(text: str) -> dict[str, str]:
    """Return the lines of ``xl info`` worth keeping, by key."""
    rows = (line.partition(":") for line in text.splitlines())
    return {key.strip(): bounded(value.strip()) for key, _, value in rows if key.strip() in _INFO_KEYS}


def topology_of(text: str) -> list[dict[str, int]]:
    """Return core, socket and node of each pCPU in the output of ``xl info -n``."""
    found = []
    for line in text.partition("cpu_topology")[2].splitlines()[2:]:
        row = re.fullmatch(r" *(\d+): +(\d+) +(\d+) +(\d+) *", line)
        if row is None:
            break  # later rows, of memory nodes, look the same
        found.append(dict(zip(("pcpu", "core", "socket", "node"), map(int, row.groups()), strict=True)))
    return found


def pcpus() -> frozenset[int]:
    """Return the numbers of the host's pCPUs that are online.

    Raises:
        TraceError: xl is missing or fails.
    """
    return frozenset(row["pcpu"] for row in topology_of(run("xl", "info", "-n")))


def domain_facts() -> dict[str, Any]:
    """Return all domains with their vCPUs and event channels; ``missing`` lists the queries that failed."""
    found: dict[str, Any] = {"missing": []}
    domains: dict[int, dict[str, Any]] = {}
    with _missing(found), open_xenstore() as store:
        for domain in store.domains()[:_MAX_DOMAINS]:
            domains[domain] = store_facts(store, domain)
    with _missing(found):
        for domain, row in vcpus_of(run("xl", "vcpu-list")).items():
            domains.setdefault(domain, {"id": domain}).update(row)
    if set(domains) - {0}:
        # Not with dom0 alone: xl keeps no configuration for it and the command fails.
        with _missing(found):
            for domain, row in configurations_of(run("xl", "list", "-l")).items():
                if domain in domains:
                    domains[domain].update(row)
    with _missing(found):
        for domain, row in _scheduling().items():
            if domain in domains:
                domains[domain].update(row)
    for domain, row in domains.items():
        with _missing(found):
            row["event_channels"] = ports_of(run("lsevtchn", str(domain)))
    found["domains"] = [domains[domain] for domain in sorted(domains)]
    return found


def store_facts(store: Xenstore, domain: int) -> dict[str, Any]:
    """Return a domain's name and type, and a PV guest's kernel, from xenstore."""
    name = store.read(f"/local/domain/{domain}/name")
    kind = store.read(f"/libxl/{domain}/type") or ("dom0" if domain == 0 else None)
    machine = store.read(f"/local/domain/{domain}/vm") or ""
    kernel = store.read(f"{machine}/image/kernel") if machine.startswith("/vm/") else None
    return {
        "id": domain,
        "name": None if name is None else bounded(name),
        "type": None if kind is None else bounded(kind),
        "kernel": None if not kernel else bounded(kernel),
    }


def vcpus_of(text: str) -> dict[int, dict[str, Any]]:
    """Return names and vCPUs with their affinities by domain, from ``xl vcpu-list``."""
    found: dict[int, dict[str, Any]] = {}
    for line in text.splitlines()[1:]:
        # A name may contain spaces, so match from the right: ID VCPU CPU STATE TIME HARD / SOFT
        row = re.fullmatch(r"(.*\S) +(\d+) +(\d+) +(\d+|-) +(\S+) +(\S+) +(\S+) / (\S+) *", line)
        if row is None:
            continue
        domain = found.setdefault(int(row[2]), {"name": bounded(row[1]), "vcpus": []})
        domain["vcpus"].append(
            {
                "vcpu": int(row[3]),
                "pcpu": None if row[4] == "-" else int(row[4]),
                "hard_affinity": bounded(row[7]),
                "soft_affinity": bounded(row[8]),
            }
        )
    return found


def _scheduling() -> dict[int, dict[str, int]]:
    """Return what the scheduler gives each domain, by domain; empty for other schedulers."""
    scheduler = info_of(run("xl", "info")).get("xen_scheduler")
    return scheduling_of(run("xl", f"sched-{scheduler}")) if scheduler in _WEIGHING else {}


def scheduling_of(text: str) -> dict[int, dict[str, int]]:
    """Return weight and cap in percent of a pCPU by domain, or period and budget.

    Args:
        text: printed by ``xl sched-credit``, ``sched-credit2`` or ``sched-rtds``; credit's weight is of a
            domain, credit2's of each of its vCPUs.
    """
    found: dict[int, dict[str, int]] = {}
    names: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("Name "):
            names = ("period_us", "budget_us") if "Period" in line else ("weight", "cap_percent")
        elif names and (row := re.fullmatch(r".*\S +(\d{1,5}) +(\d{1,9}) +(\d{1,9})(?: +\S+)? *", line)):
            found[int(row[1])] = dict(zip(names, (int(row[2]), int(row[3])), strict=True))
    return found


def configurations_of(text: str) -> dict[int, dict[str, Any]]:
    """Return type, kernel and kernel command line by domain, from ``xl list -l``."""
    found: dict[int, dict[str, Any]] = {}
    for row in json.loads(text):
        config = row.get("config") or {}
        build = config.get("b_info") or {}
        variants = [build.get(name) or {} for name in ("type.pv", "type.pvh", "type.hvm")]
        values = {
            "type": (config.get("c_info") or {}).get("type"),
            "kernel": next((part["kernel"] for part in (build, *variants) if part.get("kernel")), None),
            "kernel_command_line": next(
                (part["cmdline"] for part in (build, *variants) if part.get("cmdline")), None
            ),
        }
        found[int(row["domid"])] = {key: bounded(str(value)) for key, value in values.items() if value}
    return found


def ports_of(text: str) -> list[dict[str, Any]]:
    """Return the event channels in the output of ``lsevtchn``: port, vCPU, kind and what it is bound to."""
    ports = []
    for line in text.splitlines()[:_MAX_PORTS]:
        row = _PORT.match(line)
        if row is None:
            continue
        port: dict[str, Any] = {"port": int(row[1]), "vcpu": int(row[2]), "kind": bounded(row[3].strip())}
        for pattern, names in _KINDS:
            if match := pattern.match(row[3]):
                port.update(zip(names, map(int, match.groups()), strict=True))
                port["kind"] = row[3].split(" - ")[0] if names[0] == "domain" else names[0]
        if row[3].startswith("IPI"):
            port["kind"] = "ipi"
        ports.append(port)
    return ports


@contextlib.contextmanager
def _missing(found: Mapping[str, Any]) -> Any:
    """Add the error of a query that fails to ``missing`` instead of raising it."""
    try:
        yield
    except (OSError, TraceError, ValueError, KeyError, TypeError, AttributeError) as error:
        found["missing"].append(bounded(str(error)))


def names_of(domains: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Return the names by id of the domains that have one."""
    return {int(row["id"]): str(row["name"]) for row in domains if row.get("name")}
