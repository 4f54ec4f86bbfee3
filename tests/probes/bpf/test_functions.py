"""The functions chosen on kernels of other versions and configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrace.probes.bpf import functions, interrupts

_KERNEL = """\
ffffffff810223d0 t __xen_pv_evtchn_do_upcall
ffffffff81661470 T xen_evtchn_do_upcall
ffffffff81661fe0 T xen_irq_lateeoi
ffffffff81662200 T notify_remote_via_irq
ffffffff81664710 T handle_irq_for_port
ffffffffc0253080 t evtchn_interrupt\t[xen_evtchn]
ffffffffc0409a00 t privcmd_ioctl\t[xen_privcmd]
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kallsyms").write_text(_KERNEL)
    (tmp_path / "type").write_text("6\n")
    (tmp_path / "events" / "sched" / "sched_switch").mkdir(parents=True)
    (tmp_path / "events" / "sched" / "sched_switch" / "format").write_text("")
    monkeypatch.setattr(functions, "_SYMBOLS", tmp_path / "kallsyms")
    monkeypatch.setattr(functions, "_KPROBES", tmp_path / "type")
    monkeypatch.setattr(functions, "TRACEFS", (tmp_path,))
    (tmp_path / "guest_type").write_text("PV\n")
    monkeypatch.setattr(functions, "_GUEST_TYPE", tmp_path / "guest_type")
    return tmp_path


def test_the_best_available_function_comes_first(kernel: Path) -> None:
    choice = functions.choose()
    assert choice.functions["upcall"] == ["xen_evtchn_do_upcall", "__xen_pv_evtchn_do_upcall"]
    assert choice.functions["privcmd"] == ["privcmd_ioctl"]
    assert choice.functions["send_ipi"] == []
    assert choice.missing == ["this kernel has no xen_send_IPI_one; not recorded: IPIs"]


def test_another_kernels_name_is_accepted(kernel: Path) -> None:
    (kernel / "kallsyms").write_text("ffffffff81661470 t __xen_evtchn_do_upcall\n")
    assert functions.choose().functions["upcall"] == ["__xen_evtchn_do_upcall"]


def test_a_kernel_that_is_not_pv_has_another_upcall_function(kernel: Path) -> None:
    with (kernel / "kallsyms").open("a") as file:
        file.write("ffffffff81661480 T xen_hvm_evtchn_do_upcall\n")
    (kernel / "guest_type").write_text("PVH\n")
    choice = functions.choose()
    assert choice.functions["upcall"] == ["xen_hvm_evtchn_do_upcall", "xen_evtchn_do_upcall"]
    assert choice.functions["port"] == ["handle_irq_for_port"]


def test_without_kprobes_what_is_lost_is_reported(kernel: Path) -> None:
    (kernel / "type").unlink()
    choice = functions.choose()
    assert not choice.has_kprobes
    assert not choice.functions
    assert "no kprobes" in choice.missing[0]
    assert all(role.loses in choice.missing[0] for role in functions.ROLES)


def test_without_tracefs_the_remedy_is_named(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "TRACEFS", (kernel / "nowhere",))
    choice = functions.choose()
    assert not choice.has_sched
    assert choice.remedies == [functions.MOUNT_TRACEFS]


def test_interrupts_are_distinguished_by_their_chips() -> None:
    found = interrupts.parse(
        """\
           CPU0       CPU1
  1:          0          9  xen-pirq    -ioapic-edge  i8042
 24:       4774          0  xen-percpu    -virq      timer0
 45:          3          1  xen-dyn-lateeoi    -event     evtchn:xenstored
 46:          1          0   IO-APIC   1-edge      a name of words
NMI:          0          0   Non-maskable interrupts
"""
    )
    assert sorted(found) == [1, 24, 45, 46]
    assert found[24] == interrupts.Interrupt(24, (4774, 0), "xen-percpu-virq", "timer0")
    assert found[45].is_event
    assert found[45].is_late_eoi
    assert not found[24].is_late_eoi
    assert not found[46].is_event
    assert found[46].name == "a name of words"
