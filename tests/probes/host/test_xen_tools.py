"""Parse the output of Xen's tools.  The texts come from Xen 4.17 in the lab, cut to a few rows."""

from __future__ import annotations

import json

from xtrace.probes.host import xen_tools

INFO = """\
host                   : (none)
nr_cpus                : 2
cpu_mhz                : 2299.999
hw_caps                : 1fcbf3fd:f2d8320b
xen_major              : 4
xen_version            : 4.17.7
xen_caps               : xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64
xen_scheduler          : credit2
xen_commandline        : console=com1 com1=115200,8n1 dom0_mem=2048M,max:2048M
"""
TOPOLOGY = """\
cpu_topology           :
cpu:    core    socket     node
  0:       0        0        0
  1:       1        0        0
device topology        :
device           node
No device topology data available
numa_info              :
node:    memsize    memfree    distances
   0:      5120        990      10
"""
VCPUS = """\
Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
Domain-0                             0     0    0   r--      19.2  all / all
Domain-0                             0     1    1   r--      20.1  0-1 / all
web server                          12     0    -   --p       0.0  1,3-5 / 2
"""
PORTS = """\
   1: VCPU 0: Virtual IRQ 0
   2: VCPU 0: IPI
  13: VCPU 1: Interdomain (Connected) - Remote Domain 0, Port 27
  14: VCPU 1: Interdomain (Waiting connection) - Remote Domain 3
  15: VCPU 1: Physical IRQ 9
"""


def test_xl_info() -> None:
    found = xen_tools.info_of(INFO)
    assert found["xen_version"] == "4.17.7"
    assert found["xen_commandline"] == "console=com1 com1=115200,8n1 dom0_mem=2048M,max:2048M"
    assert "hw_caps" not in found


def test_topology() -> None:
    assert xen_tools.topology_of(TOPOLOGY) == [
        {"pcpu": 0, "core": 0, "socket": 0, "node": 0},
        {"pcpu": 1, "core": 1, "socket": 0, "node": 0},
    ]


def test_vcpus_and_names_with_spaces() -> None:
    found = xen_tools.vcpus_of(VCPUS)
    assert [row["vcpu"] for row in found[0]["vcpus"]] == [0, 1]
    assert found[0]["vcpus"][1]["hard_affinity"] == "0-1"
    assert found[12] == {
        "name": "web server",
        "vcpus": [{"vcpu": 0, "pcpu": None, "hard_affinity": "1,3-5", "soft_affinity": "2"}],
    }


def test_a_name_that_looks_like_a_row_is_a_name() -> None:
    hostile = "Domain-0 0 0 0 r-- 1.0 all / all"
    (row,) = xen_tools.vcpus_of(f"Name ID\n{hostile}   7     0    1   r--  19.2  all / all\n").items()
    assert row[0] == 7
    assert row[1]["name"] == hostile


def test_configurations() -> None:
    text = json.dumps(
        [
            {
                "domid": 3,
                "config": {
                    "c_info": {"type": "pv", "name": "a"},
                    "b_info": {"kernel": "/boot/vmlinux", "cmdline": "x" * 1000},
                },
            },
            {
                "domid": 4,
                "config": {"c_info": {"type": "pv"}, "b_info": {"type.pv": {"kernel": "/boot/netbsd"}}},
            },
            {"domid": 5},
        ]
    )
    found = xen_tools.configurations_of(text)
    assert found[3]["kernel"] == "/boot/vmlinux"
    assert len(found[3]["kernel_command_line"]) < 300
    assert found[4] == {"type": "pv", "kernel": "/boot/netbsd"}
    assert found[5] == {}


def test_what_the_scheduler_gives_each_domain() -> None:
    """The formats of xl_sched.c."""
    credit2 = """\
Cpupool Pool-0: ratelimit=1000us
Name                                ID Weight  Cap
Domain-0                             0    256    0
web 1 2 3                           12    512   50
"""
    assert xen_tools.scheduling_of(credit2) == {
        0: {"weight": 256, "cap_percent": 0},
        12: {"weight": 512, "cap_percent": 50},
    }
    rtds = """\
Cpupool Pool-0: sched=RTDS
Name                                ID    Period    Budget  Extratime
Domain-0                             0     10000      4000        yes
"""
    assert xen_tools.scheduling_of(rtds) == {0: {"period_us": 10000, "budget_us": 4000}}
    assert xen_tools.scheduling_of("libxl: error: not this scheduler\n") == {}


def test_event_channels() -> None:
    assert xen_tools.ports_of(PORTS) == [
        {"port": 1, "vcpu": 0, "kind": "virq", "virq": 0},
        {"port": 2, "vcpu": 0, "kind": "ipi"},
        {"port": 13, "vcpu": 1, "kind": "Interdomain (Connected)", "domain": 0, "remote_port": 27},
        {"port": 14, "vcpu": 1, "kind": "Interdomain (Waiting connection)", "domain": 3},
        {"port": 15, "vcpu": 1, "kind": "pirq", "pirq": 9},
    ]
