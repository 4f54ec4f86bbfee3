"""All rules."""

from __future__ import annotations

from xtrace.analysis.findings.rules import fences, forced, offline, waiting, wake_latency

RULES = (
    wake_latency.RULE,
    waiting.RULE,
    offline.OFFLINE,
    offline.PAUSED_WAKES,
    forced.RULE,
    fences.COST,
    fences.CONTRADICTION,
)
