"""All rules."""

from __future__ import annotations

from xtrace.analysis.findings.rules.events import fences, forced, irqs, masks, silent
from xtrace.analysis.findings.rules.recording import loss, recorder
from xtrace.analysis.findings.rules.running import (
    budget,
    idle_while_waiting,
    late_ticks,
    late_timers,
    migrations,
    offline,
    starved,
    waiting,
    wake_latency,
)

RULES = (
    silent.SILENT,
    silent.UNANSWERED,
    wake_latency.RULE,
    waiting.RULE,
    starved.RULE,
    idle_while_waiting.RULE,
    budget.RULE,
    late_timers.RULE,
    late_ticks.RULE,
    offline.OFFLINE,
    offline.PAUSED_WAKES,
    migrations.RULE,
    irqs.PEAK,
    irqs.ONE_PCPU,
    irqs.ONE_VCPU,
    forced.RULE,
    masks.MASKED,
    masks.RULE,
    fences.COST,
    fences.CONTRADICTION,
    loss.RULE,
    recorder.RULE,
)
