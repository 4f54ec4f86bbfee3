"""Why a hardware guest exited to Xen: VMX exit reasons and SVM exit codes.

Sources: xen/arch/x86/include/asm/hvm/vmx/vmx.h and xen/arch/x86/hvm/svm/vmcb.h of Xen 4.22; Intel SDM
volume 3, appendix C; AMD APM volume 2, appendix C.

Before Xen 4.19 an AMD host writes its exits under the ids that only VMX uses since then,
so vendor_of() infers the vendor from the codes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

Vendor = Literal["vmx", "svm"]

#: EXIT_REASON_*, the low 16 bits of the word.
VMX_REASONS: Mapping[int, str] = {
    0: "exception_nmi", 1: "external_interrupt", 2: "triple_fault", 3: "init",
    4: "sipi", 5: "io_smi", 6: "other_smi", 7: "interrupt_window",
    8: "nmi_window", 9: "task_switch", 10: "cpuid", 11: "getsec",
    12: "hlt", 13: "invd", 14: "invlpg", 15: "rdpmc",
    16: "rdtsc", 17: "rsm", 18: "vmcall", 19: "vmclear",
    20: "vmlaunch", 21: "vmptrld", 22: "vmptrst", 23: "vmread",
    24: "vmresume", 25: "vmwrite", 26: "vmxoff", 27: "vmxon",
    28: "cr_access", 29: "dr_access", 30: "io_instruction", 31: "msr_read",
    32: "msr_write", 33: "invalid_guest_state", 34: "msr_loading", 36: "mwait",
    37: "monitor_trap_flag", 39: "monitor", 40: "pause", 41: "mce_during_vmentry",
    43: "tpr_below_threshold", 44: "apic_access", 45: "eoi_induced", 46: "access_gdtr_or_idtr",
    47: "access_ldtr_or_tr", 48: "ept_violation", 49: "ept_misconfig", 50: "invept",
    51: "rdtscp", 52: "preemption_timer", 53: "invvpid", 54: "wbinvd",
    55: "xsetbv", 56: "apic_write", 58: "invpcid", 59: "vmfunc",
    62: "pml_full", 63: "xsaves", 64: "xrstors", 74: "bus_lock",
    75: "notify",
}  # fmt: skip

_SVM_EXCEPTIONS = "de db nmi bp of br ud nm df 09 ts np ss gp pf 15 mf ac mc xf - cp"
_SVM_FROM_60 = """
    intr nmi smi init vintr cr0_sel_write idtr_read gdtr_read ldtr_read tr_read idtr_write gdtr_write
    ldtr_write tr_write rdtsc rdpmc pushf popf cpuid rsm iret swint invd pause hlt invlpg invlpga ioio msr
    task_switch ferr_freeze shutdown vmrun vmmcall vmload vmsave stgi clgi skinit rdtscp icebp wbinvd
    monitor mwait mwait_conditional xsetbv rdpru
"""
_SVM_INVALID = 0xFFFF_FFFF

#: VMEXIT_*, the low 32 bits of the VMCB's exit code.
SVM_CODES: Mapping[int, str] = {
    **{number: f"cr{number}_read" for number in range(16)},
    **{0x10 + number: f"cr{number}_write" for number in range(16)},
    **{0x20 + number: f"dr{number}_read" for number in range(16)},
    **{0x30 + number: f"dr{number}_write" for number in range(16)},
    **{
        0x40 + number: f"exception_{name}"
        for number, name in enumerate(_SVM_EXCEPTIONS.split())
        if name != "-"
    },
    **{0x60 + number: name for number, name in enumerate(_SVM_FROM_60.split())},
    0xA5: "bus_lock",
    0x400: "npf",
    _SVM_INVALID: "invalid",
}

# The reason word of a VMX exit: basic reason in the low half, flags from bit 26 up
# (bus lock, enclave, ..., failed VM entry).
_VMX_BASIC = 0xFFFF

# Control registers 1, 5-7 and 9-15 and debug registers 8-15 do not exist: an access raises #UD and does
# not exit, so AMD never reports the codes assigned to them.
_NO_CR = frozenset({1, 5, 6, 7, *range(9, 16)})
_NOT_SVM = _NO_CR | {0x10 + cr for cr in _NO_CR} | {*range(0x28, 0x30)} | {*range(0x38, 0x40)}


def vendor_of(reasons: Iterable[int]) -> Vendor | None:
    """Return the vendor whose exit codes ``reasons`` are, or None if they do not show it.

    Only codes that just one vendor can report count.  SVM: 0x60 and above (intr
    0x60, cpuid 0x72, hlt 0x78, msr 0x7c, vmmcall 0x81, npf 0x400), because VMX
    reasons end at 75 (0x4b).  VMX: those below 0x40 that on SVM would be accesses to
    registers that do not exist (external interrupt 1, cpuid 10, hlt 12, cr 28,
    io 30, ...), and any with a VMX flag, such as that of a failed entry.  A running
    guest soon has some.  If there are both, as in a damaged trace, the vendor with
    more occurrences wins.
    """
    vmx = svm = 0
    for reason in reasons:
        if reason in SVM_CODES and reason >= 0x60:
            svm += 1
        elif reason in _NOT_SVM or (reason >> 26 and reason & _VMX_BASIC in VMX_REASONS):
            vmx += 1
    if vmx == svm:
        return None
    return "vmx" if vmx > svm else "svm"


def exit_name(vendor: Vendor, reason: int) -> str | None:
    """Return the name of ``reason``, a word as in the record, or None if it is unknown."""
    return VMX_REASONS.get(reason & _VMX_BASIC) if vendor == "vmx" else SVM_CODES.get(reason)
