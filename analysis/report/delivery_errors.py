"""How often figures were right, held against a Xen that records event delivery.

Written by `make accuracy-delivery` (tests/lab/accuracy.py); docs/accuracy-delivery.md says how.
"""

from __future__ import annotations

from collections.abc import Mapping

#: By table and column.
ERRORS: Mapping[tuple[str, str], str] = {
    ("wakes", "event_channel_count"): "right 6,392 of 6,465",
    ("wakes", "send_to_wake_count"): "right 6,392 of 6,465",
    ("sends", "woke_count"): "right 6,392 of 6,465",
    ("wakes", "hypercall_count"): "right 8 of 8",
    ("wakes", "other_count"): "right 6,317 of 6,320",
    ("upcalls", "upcall_most_count"): "contained 21 of 21",
    ("upcalls", "upcall_least_count"): "right 11,581 of 11,581",
    ("upcalls", "iret_trap_count"): "right 38,035 of 39,643",
    ("upcalls", "upcall_least_p50_cycles"): "right 11,453 of 11,488",
    ("upcalls", "upcall_least_p95_cycles"): "right 11,453 of 11,488",
    ("upcalls", "upcall_least_p99_cycles"): "right 11,453 of 11,488",
    ("upcalls", "upcall_least_max_cycles"): "right 11,453 of 11,488",
    ("upcalls", "upcall_most_p50_cycles"): "contained 11,488 of 11,488",
    ("upcalls", "upcall_most_p95_cycles"): "contained 11,488 of 11,488",
    ("upcalls", "upcall_most_p99_cycles"): "contained 11,488 of 11,488",
    ("upcalls", "upcall_most_max_cycles"): "contained 11,488 of 11,488",
    ("upcalls", "running_to_entry_most_p50_cycles"): "contained 11,675 of 11,675",
    ("upcalls", "running_to_entry_most_p95_cycles"): "contained 11,675 of 11,675",
    ("upcalls", "running_to_entry_most_p99_cycles"): "contained 11,675 of 11,675",
    ("upcalls", "running_to_entry_most_max_cycles"): "contained 11,675 of 11,675",
    ("upcalls", "block_without_block_count"): "right 75 of 75",
    ("upcalls", "xen_version_count"): "right 2,867 of 2,945 (guests); right 1,771 of 2,090 (dom0)",
    ("upcalls", "forced_callback_count"): "right 4,038 of 4,356",
    ("upcalls", "forced_to_iret_p50_cycles"): "right 4,038 of 4,356",
    ("upcalls", "forced_to_iret_p95_cycles"): "right 4,038 of 4,356",
    ("upcalls", "forced_to_iret_p99_cycles"): "right 4,038 of 4,356",
    ("upcalls", "forced_to_iret_max_cycles"): "right 4,038 of 4,356",
    ("injections", "injection_to_entry_p50_cycles"): "contained 2,713 of 2,713",
    ("injections", "injection_to_entry_p95_cycles"): "contained 2,713 of 2,713",
    ("injections", "injection_to_entry_p99_cycles"): "contained 2,713 of 2,713",
    ("injections", "injection_to_entry_max_cycles"): "contained 2,713 of 2,713",
    ("injections", "window_wait_p50_cycles"): "contained 1,000 of 1,000",
    ("injections", "window_wait_p95_cycles"): "contained 1,000 of 1,000",
    ("injections", "window_wait_p99_cycles"): "contained 1,000 of 1,000",
    ("injections", "window_wait_max_cycles"): "contained 1,000 of 1,000",
}
