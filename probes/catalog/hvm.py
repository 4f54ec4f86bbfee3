"""TRC_HVM: VM entries and exits of hardware guests, and the exit handlers.

Source: xen/include/public/trace.h, xen/arch/x86/hvm/.

Entries and exits are timed, handlers are not: a handler's record lies between a
VMEXIT and the following VMENTRY on the same pCPU.  Bit 8 of the id marks 64-bit
addresses.  The narrow forms of ids that depend on Xen's own width (_xen_width)
end with 32-bit Xen in 4.2; those that depend on the guest's width remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.catalog.types import OLDEST, Event
from xtrace.probes.format import TraceClass

_hvm = define(TraceClass.HVM, "xen/arch/x86/hvm/")
_io = define(TraceClass.HVM, "xen/arch/x86/hvm/emulate.c")
_vmx = define(TraceClass.HVM, "xen/arch/x86/hvm/vmx/vmx.c")
_svm = define(TraceClass.HVM, "xen/arch/x86/hvm/svm/svm.c")

_NESTED = 0x400

# Before 4.19 a reason may be either vendor's (exits.vendor_of), so it has no names here.
_EXIT = (2, "reason:w0:hex rip:w1:hex")
_EXIT64 = (3, "reason:w0:hex rip:w1-w2:hex")
_SVM_EXIT = (2, "reason:w0:hex:@svm rip:w1:hex")
_SVM_EXIT64 = (3, "reason:w0:hex:@svm rip:w1-w2:hex")

_ENTRY_EXIT = (
    _hvm(ids.HVM_VMENTRY, "vmentry", "TRC_HVM_VMENTRY", lay("4.0+", 0)),
    _vmx(ids.HVM_VMX_EXIT, "vmexit", "TRC_HVM_VMX_EXIT", lay("4.0+", *_EXIT),
         note="TRC_HVM_VMEXIT before 4.19, when SVM used it too"),
    _vmx(ids.HVM_VMX_EXIT | ids.WIDE, "vmexit", "TRC_HVM_VMX_EXIT64", lay("4.0+", *_EXIT64),
         note="TRC_HVM_VMEXIT64 before 4.19, when SVM used it too"),
    # 4.19 gave SVM its own ids.
    _svm(ids.HVM_SVM_EXIT, "vmexit_svm", "TRC_HVM_SVM_EXIT", lay("4.19+", *_SVM_EXIT)),
    _svm(ids.HVM_SVM_EXIT | ids.WIDE, "vmexit_svm", "TRC_HVM_SVM_EXIT64", lay("4.19+", *_SVM_EXIT64)),
    # Nested guests (L2): written on SVM only, so these codes are SVM's before 4.19 too.
    _svm(ids.HVM_VMENTRY | _NESTED, "vmentry_nested", "TRC_HVM_VMENTRY", lay("4.2+", 0)),
    _svm(ids.HVM_VMX_EXIT | _NESTED, "vmexit_nested", "TRC_HVM_VMEXIT", lay("4.2-4.18", *_SVM_EXIT)),
    _svm(ids.HVM_VMX_EXIT | ids.WIDE | _NESTED, "vmexit_nested", "TRC_HVM_VMEXIT64",
         lay("4.2-4.18", *_SVM_EXIT64)),
    _svm(ids.HVM_SVM_EXIT | _NESTED, "vmexit_svm_nested", "TRC_HVM_SVM_EXIT", lay("4.19+", *_SVM_EXIT)),
    _svm(ids.HVM_SVM_EXIT | ids.WIDE | _NESTED, "vmexit_svm_nested", "TRC_HVM_SVM_EXIT64",
         lay("4.19+", *_SVM_EXIT64)),
)  # fmt: skip


def _xen_width(id: int, name: str, words: int, text: str) -> Iterator[Event]:
    """Yield both forms of a record whose last field is as wide as Xen's registers.

    ``words`` and ``text`` describe the 32-bit form, with that field at the end.
    """
    last = words - 1
    wide = text.replace(f"w{last}", f"w{last}-w{last + 1}")
    xen_name = f"TRC_HVM_{name.upper()}"
    yield _hvm(id, name, xen_name, lay("4.0-4.2", words, text, timed=False))
    yield _hvm(id | ids.WIDE, name, f"{xen_name}64", lay("4.0+", words + 1, wide, timed=False))


_HANDLERS = (
    # as wide as the guest: the narrow form is still written
    _hvm(0x82001, "pf_xen", "TRC_HVM_PF_XEN",
         lay("4.0+", 2, "error_code:w0:hex va:w1:hex", timed=False)),
    _hvm(0x82101, "pf_xen", "TRC_HVM_PF_XEN64",
         lay("4.0+", 3, "error_code:w0:hex va:w1-w2:hex", timed=False)),
    *_xen_width(0x82002, "pf_inject", 2, "error_code:w0:hex cr2:w1:hex"),
    _hvm(0x82003, "inj_exc", "TRC_HVM_INJ_EXC",
         lay("4.0+", 2, "vector:w0:@trap error_code:w1:hex", timed=False)),
    _hvm(ids.HVM_INJ_VIRQ, "inj_virq", "TRC_HVM_INJ_VIRQ",
         lay("4.0+", 2, "vector:w0:hex fake:w1", timed=False),
         note="not written for posted interrupts or virtual-interrupt delivery"),
    _hvm(0x82005, "reinj_virq", "TRC_HVM_REINJ_VIRQ", note="reserved, never written"),
    _hvm(0x82006, "io_read", "TRC_HVM_IO_READ", note="reserved, never written"),
    _hvm(0x82007, "io_write", "TRC_HVM_IO_WRITE", note="reserved, never written"),
    *_xen_width(0x82008, "cr_read", 2, "reg:w0 value:w1:hex"),
    *_xen_width(0x82009, "cr_write", 2, "reg:w0 value:w1:hex"),
    _hvm(0x8200A, "dr_read", "TRC_HVM_DR_READ", note="reserved, never written"),
    _hvm(0x8200B, "dr_write", "TRC_HVM_DR_WRITE", lay("4.0+", 0, timed=False)),
    _hvm(0x8200C, "msr_read", "TRC_HVM_MSR_READ",
         lay("4.0+", 3, "msr:w0:hex value:w1-w2:hex", timed=False)),
    _hvm(0x8200D, "msr_write", "TRC_HVM_MSR_WRITE",
         lay("4.0+", 3, "msr:w0:hex value:w1-w2:hex", timed=False)),
    _hvm(0x8200E, "cpuid", "TRC_HVM_CPUID",
         # 4.13 added the subleaf
         lay("4.0-4.12", 5, "leaf:w0:hex eax:w1:hex ebx:w2:hex ecx:w3:hex edx:w4:hex", timed=False),
         lay("4.13+", 6, "leaf:w0:hex subleaf:w1:hex eax:w2:hex ebx:w3:hex ecx:w4:hex edx:w5:hex",
             timed=False)),
    _hvm(ids.HVM_INTR, "intr", "TRC_HVM_INTR",
         # the host's vector on VMX, no word on SVM; Xen's own vectors have these numbers since 4.2
         lay("4.0-4.1", (0, 1), "vector:w0:hex", timed=False),
         lay("4.2+", (0, 1), "vector:w0:hex:@vector", timed=False)),
    _hvm(0x82010, "nmi", "TRC_HVM_NMI", lay("4.0+", 0, timed=False)),
    _svm(0x82011, "smi", "TRC_HVM_SMI", lay("4.0+", 0, timed=False)),
    _hvm(ids.HVM_VMMCALL, "vmmcall", "TRC_HVM_VMMCALL", lay("4.0+", 1, "op:w0:@hypercall", timed=False)),
    _hvm(ids.HVM_HLT, "hlt", "TRC_HVM_HLT", lay("4.0+", 1, "runnable:w0", timed=False)),
    *_xen_width(0x82014, "invlpg", 2, "invlpga:w0 va:w1:hex"),
    _hvm(0x82015, "mce", "TRC_HVM_MCE", lay("4.0+", 0, timed=False)),
    # The data are absent if they are in guest memory (string instructions).
    _io(0x82016, "ioport_read", "TRC_HVM_IOPORT_READ",
        lay("4.0+", (1, 2), "port:w0:hex data:w1:hex", timed=False)),
    _io(0x82216, "ioport_write", "TRC_HVM_IOPORT_WRITE",
        lay("4.0+", (1, 2), "port:w0:hex data:w1:hex", timed=False)),
    _io(0x82017, "iomem_read", "TRC_HVM_IOMEM_READ",
        lay("4.0+", (1, 2), "gpa:w0:hex data:w1:hex", timed=False)),
    _io(0x82217, "iomem_write", "TRC_HVM_IOMEM_WRITE",
        lay("4.0+", (1, 2), "gpa:w0:hex data:w1:hex", timed=False)),
    # gpa above 4 GiB; since 4.12 the data have 64 bits, before 32
    _io(0x82117, "iomem_read", "TRC_HVM_IOMEM_READ",
        lay("4.0-4.11", (2, 3), "gpa:w0-w1:hex data:w2:hex", timed=False),
        lay("4.12+", (2, 4), "gpa:w0-w1:hex data:w2-w3:hex", timed=False)),
    _io(0x82317, "iomem_write", "TRC_HVM_IOMEM_WRITE",
        lay("4.0-4.11", (2, 3), "gpa:w0-w1:hex data:w2:hex", timed=False),
        lay("4.12+", (2, 4), "gpa:w0-w1:hex data:w2-w3:hex", timed=False)),
    _hvm(0x82018, "clts", "TRC_HVM_CLTS", lay("4.0+", 0, timed=False)),
    *_xen_width(0x82019, "lmsw", 1, "value:w0:hex"),
    _hvm(0x8201A, "rdtsc", "TRC_HVM_RDTSC", lay("4.1+", 2, "tsc:w0-w1", timed=False)),
    _hvm(ids.HVM_INTR_WINDOW, "intr_window", "TRC_HVM_INTR_WINDOW",
         lay("4.0+", 3, "vector:w0:hex source:w1:@intsrc queued:w2:hex", timed=False),
         note="queued is the vector that this one waits for, or 0xffffffff if it could not be injected"),
    _hvm(0x82021, "npf", "TRC_HVM_NPF",
         lay("4.0+", 6, "gpa:w0-w1:hex mfn:w2-w3:hex qualification:w4:hex p2m_type:w5", timed=False)),
    _vmx(0x82022, "realmode_emulate", "TRC_HVM_REALMODE_EMULATE", lay("4.2+", 0, timed=False)),
    _hvm(0x82023, "trap", "TRC_HVM_TRAP", lay("4.2+", 1, "vector:w0:@trap", timed=False)),
    _vmx(0x82024, "trap_debug", "TRC_HVM_TRAP_DEBUG", lay("4.2+", 1, "qualification:w0:hex", timed=False)),
    _vmx(0x82025, "vlapic", "TRC_HVM_VLAPIC", lay("4.2+", 0, timed=False)),
    _io(0x82126, "xcr_read", "TRC_HVM_XCR_READ64",
        lay("4.11+", 3, "reg:w0 value:w1-w2:hex", timed=False)),
    _io(0x82127, "xcr_write", "TRC_HVM_XCR_WRITE64",
        lay("4.11+", 3, "reg:w0 value:w1-w2:hex", timed=False)),
)  # fmt: skip

# Not written with the macro that adds a byte (see below).
_NOT_PADDED = frozenset({0x82016, 0x82216, 0x82017, 0x82217, 0x82117, 0x82317, 0x82021})


def _padded_in_4_0(event: Event) -> Event:
    """Return ``event`` with the additional form that 4.0.0 and 4.0.1 write.

    Their HVMTRACE_ND passed one byte too many, which was rounded up to a stale word at
    the end; 4.0.2 fixed it.  The form is left out if that length has another meaning too
    (the vector of intr, the subleaf of cpuid).
    """
    taken = {words for layout in event.layouts for words in layout.words}
    first = next((layout for layout in event.layouts if layout.since == OLDEST), None)
    if first is None or event.id in _NOT_PADDED:
        return event
    words = tuple(words + 1 for words in first.words if words + 1 not in taken)
    if not words:
        return event
    padded = replace(first, until=OLDEST, words=words, note="4.0.0 and 4.0.1: a stale word at the end")
    return replace(event, layouts=(padded, *event.layouts))


EVENTS = tuple(_padded_in_4_0(event) for event in (*_ENTRY_EXIT, *_HANDLERS))
