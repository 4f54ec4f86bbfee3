"""How often figures were right, held against a Xen that records event delivery.

Written by `make accuracy-delivery` (tests/lab/accuracy.py); docs/accuracy-delivery.md says how.
"""

from __future__ import annotations

from collections.abc import Mapping

#: By table and column.
ERRORS: Mapping[tuple[str, str], str] = {
    ("wakes", "event_channel_count"): "right 4,405 of 4,488",
    ("wakes", "send_to_wake_count"): "right 4,405 of 4,488",
    ("sends", "woke_count"): "right 4,405 of 4,488",
    ("wakes", "hypercall_count"): "right 10 of 11",
    ("wakes", "other_count"): "right 7,093 of 7,104",
    ("upcalls", "upcall_most_count"): "contained 21 of 21",
    ("upcalls", "upcall_least_count"): "right 9,432 of 9,432",
    ("upcalls", "iret_trap_count"): "right 38,670 of 40,174",
    ("upcalls", "upcall_least_p50_cycles"): "right 9,294 of 9,342",
    ("upcalls", "upcall_least_p95_cycles"): "right 9,294 of 9,342",
    ("upcalls", "upcall_least_p99_cycles"): "right 9,294 of 9,342",
    ("upcalls", "upcall_least_max_cycles"): "right 9,294 of 9,342",
    ("upcalls", "upcall_most_p50_cycles"): "contained 9,342 of 9,342",
    ("upcalls", "upcall_most_p95_cycles"): "contained 9,342 of 9,342",
    ("upcalls", "upcall_most_p99_cycles"): "contained 9,342 of 9,342",
    ("upcalls", "upcall_most_max_cycles"): "contained 9,342 of 9,342",
    ("upcalls", "running_to_entry_most_p50_cycles"): "contained 9,506 of 9,506",
    ("upcalls", "running_to_entry_most_p95_cycles"): "contained 9,506 of 9,506",
    ("upcalls", "running_to_entry_most_p99_cycles"): "contained 9,506 of 9,506",
    ("upcalls", "running_to_entry_most_max_cycles"): "contained 9,506 of 9,506",
    ("upcalls", "block_without_block_count"): "right 80 of 80",
    ("upcalls", "xen_version_count"): "right 4,885 of 4,995 (guests); right 1,553 of 1,869 (dom0)",
    ("upcalls", "forced_callback_count"): "right 5,809 of 6,127",
    ("upcalls", "forced_to_iret_p50_cycles"): "right 5,809 of 6,127",
    ("upcalls", "forced_to_iret_p95_cycles"): "right 5,809 of 6,127",
    ("upcalls", "forced_to_iret_p99_cycles"): "right 5,809 of 6,127",
    ("upcalls", "forced_to_iret_max_cycles"): "right 5,809 of 6,127",
    ("injections", "injection_to_entry_p50_cycles"): "contained 2,401 of 2,401",
    ("injections", "injection_to_entry_p95_cycles"): "contained 2,401 of 2,401",
    ("injections", "injection_to_entry_p99_cycles"): "contained 2,401 of 2,401",
    ("injections", "injection_to_entry_max_cycles"): "contained 2,401 of 2,401",
    ("injections", "window_wait_p50_cycles"): "contained 848 of 848",
    ("injections", "window_wait_p95_cycles"): "contained 848 of 848",
    ("injections", "window_wait_p99_cycles"): "contained 848 of 848",
    ("injections", "window_wait_max_cycles"): "contained 848 of 848",
}
