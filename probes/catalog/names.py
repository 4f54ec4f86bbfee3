"""Names of the numbers in trace records.

Sources: xen/include/public/{xen,sched,event_channel,vcpu,grant_table}.h,
xen/arch/x86/include/asm/{x86-defns,irq-vectors,hvm/hvm}.h of Xen 4.22.
"""

from __future__ import annotations

from collections.abc import Mapping

from xtrace.probes.catalog.exits import SVM_CODES, VMX_REASONS


def _numbered(text: str) -> Mapping[int, str]:
    """Return the words of ``text`` by number from 0; "-" marks an unused number."""
    return {number: name for number, name in enumerate(text.split()) if name != "-"}


#: RUNSTATE_*, xen/include/public/vcpu.h
RUNSTATES = _numbered("running runnable blocked offline")

#: __HYPERVISOR_*, xen/include/public/xen.h.  6, 16 and 19 are the forms before
#: Xen 3.1 and 3.2.  tmem_op is no longer there, nor is xenoprof_op since 4.22.  On x86 arch_0
#: is the MCA operation and arch_1 Xen's own continuation of a paging domctl.
HYPERCALLS = _numbered("""
    set_trap_table mmu_update set_gdt stack_switch set_callbacks fpu_taskswitch sched_op_compat platform_op
    set_debugreg get_debugreg update_descriptor - memory_op multicall update_va_mapping set_timer_op
    event_channel_op_compat xen_version console_io physdev_op_compat grant_table_op vm_assist
    update_va_mapping_otherdomain iret vcpu_op set_segment_base mmuext_op xsm_op nmi_op sched_op callback_op
    xenoprof_op event_channel_op physdev_op hvm_op sysctl domctl kexec_op tmem_op argo_op xenpmu_op dm_op
    hypfs_op - - - - -
    mca paging_domctl_cont arch_2 arch_3 arch_4 arch_5 arch_6 arch_7
""")

#: SCHEDOP_*, xen/include/public/sched.h
SCHED_OPS = _numbered("yield block shutdown poll remote_shutdown shutdown_code watchdog pin_override")

#: SHUTDOWN_*, xen/include/public/sched.h
SHUTDOWN_REASONS = _numbered("poweroff reboot suspend crash watchdog soft_reset")

#: EVTCHNOP_*, xen/include/public/event_channel.h (not in any record; for probes in guests)
EVTCHN_OPS = _numbered("""
    bind_interdomain bind_virq bind_pirq close send status alloc_unbound bind_ipi bind_vcpu unmask reset
    init_control expand_array set_priority reset_cont
""")

#: VCPUOP_*, xen/include/public/vcpu.h
VCPU_OPS = _numbered("""
    initialise up down is_up get_runstate_info register_runstate_memory_area set_periodic_timer
    stop_periodic_timer set_singleshot_timer stop_singleshot_timer register_vcpu_info send_nmi get_physid
    register_vcpu_time_memory_area register_runstate_phys_area register_vcpu_time_phys_area
""")

#: GNTTABOP_*, xen/include/public/grant_table.h
GRANT_TABLE_OPS = _numbered("""
    map_grant_ref unmap_grant_ref setup_table dump_table transfer copy query_size unmap_and_replace
    set_version get_status_frames get_version swap_grant_ref cache_flush
""")

#: X86_EXC_*, xen/arch/x86/include/asm/x86-defns.h
TRAPS = _numbered("de db nmi bp of br ud nm df cso ts np ss gp pf spv mf ac mc xm ve cp - - - - - - hv vc sx")

#: enum hvm_intsrc, xen/arch/x86/include/asm/hvm/hvm.h
INTERRUPT_SOURCES = _numbered("none pic lapic nmi mce callback")

#: Xen's own vectors since 4.2 (asm/irq-vectors.h); in 4.0 and 4.1 the timer is one lower.
VECTORS: Mapping[int, str] = {
    0xF9: "pmu",
    0xFA: "lapic_timer",
    0xFB: "call_function",
    0xFC: "event_check",
    0xFD: "invalidate_tlb",
    0xFE: "apic_error",
    0xFF: "spurious",
}

#: The tables by their names in the field notation.
#: States of an event channel (ECS_*, xen/include/xen/sched.h).
CHANNELS = {0: "free", 1: "reserved", 2: "unbound", 3: "interdomain", 4: "pirq", 5: "virq", 6: "ipi"}

TABLES: Mapping[str, Mapping[int, str]] = {
    "channel": CHANNELS,
    "grant_table_op": GRANT_TABLE_OPS,
    "hypercall": HYPERCALLS,
    "intsrc": INTERRUPT_SOURCES,
    "runstate": RUNSTATES,
    "sched_op": SCHED_OPS,
    "shutdown": SHUTDOWN_REASONS,
    "svm": SVM_CODES,
    "trap": TRAPS,
    "vcpu_op": VCPU_OPS,
    "vector": VECTORS,
    "vmx": VMX_REASONS,
}
