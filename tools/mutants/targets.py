"""List the modules to mutate and the tests that must fail: fast ones first, as one failure ends a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = 20_221_713


@dataclass(frozen=True, slots=True)
class Target:
    """One module under mutation.

    Attributes:
        module: its path, relative to the root of the checkout.
        quick: arguments of the first run of pytest.
        tests: arguments of the second run, if the first passes.
        drawn: how many mutants are drawn at random, with ``SEED``; 0 for all.
    """

    module: str
    quick: tuple[str, ...]
    tests: tuple[str, ...]
    drawn: int = 0

    @property
    def name(self) -> str:
        """Return the module's name for use in file names: ``symbols-sites-verdict``."""
        return self.module.removesuffix(".py").replace("/", "-")


#: Without the guests in C, which take most of the time and have the same code as those in assembly.
_SITES = (
    "-k",
    "not compiled",
    "tests/symbols/sites/test_description.py",
    "tests/symbols/sites/test_shapes.py",
    "tests/symbols/sites/test_finder.py",
    "tests/symbols/sites/test_execution_bounds.py",
    "tests/cli/commands/test_sites.py",
)
_COST = "tests/analysis/cost"
_PROOF = "tests/symbols/proof"
_SITE_TESTS = "tests/symbols/sites"
#: Of the checker's tests those without a long search, and two kinds of sites.
_SEARCHES = (
    "text_ or start or counts or must_not or places or one_and_two or limits or bounded or nested"
    " or hypercall or tree or opens_the_mask"
    " or ((contract or interpreter) and none and (unmask or handler))"
)
#: Where a negative index is an error, which numba takes for one from the end.
_AS_PYTHON = "tests/probes/compiled/test_loop.py::test_every_loop_runs_in_python_with_the_same_results"

TARGETS = (
    Target("symbols/sites/verdict.py", ("tests/symbols/sites/test_verdict.py",), _SITES),
    Target(
        "symbols/sites/surroundings.py",
        (f"{_SITE_TESTS}/test_surroundings.py", f"{_SITE_TESTS}/test_shapes.py"),
        _SITES,
        drawn=240,
    ),
    Target("symbols/sites/fences.py", ("tests/symbols/sites/test_fences.py",), _SITES),
    # One mutant of these takes 2 to 20 s of CPU, so of each a sample is run.
    Target(
        "symbols/sites/description.py",
        (f"{_SITE_TESTS}/test_description.py", "-k", "not agree"),
        (),
        drawn=120,
    ),
    Target(
        "symbols/sites/handlers.py",
        (f"{_SITE_TESTS}/test_surroundings.py", "-k", "clear or order or fences_that or takers"),
        (f"{_SITE_TESTS}/test_description.py", "-k", "handler or fence_on or selector"),
        drawn=120,
    ),
    Target(
        "symbols/proof/operational.py",
        (f"{_PROOF}/test_operational.py", "-k", _SEARCHES),
        (f"{_PROOF}/test_axiomatic.py", "-k", "planted or nested or pointer or block"),
        drawn=120,
    ),
    Target(
        "symbols/proof/axiomatic.py",
        (f"{_PROOF}/test_axiomatic.py", "-k", "not small and not generated"),
        (f"{_PROOF}/test_axiomatic.py", "-k", "generated and not small"),
        drawn=60,
    ),
    Target(
        "symbols/proof/rule.py",
        (f"{_PROOF}/test_rule.py", "-k", "not agrees"),
        (f"{_PROOF}/test_rule.py", "-k", "agrees"),
        drawn=120,
    ),
    Target(
        "symbols/proof/templates.py",
        (f"{_PROOF}/test_templates.py",),
        (f"{_PROOF}/test_operational.py", "-k", _SEARCHES),
        drawn=120,
    ),
    Target(
        "symbols/proof/faults.py",
        (f"{_PROOF}/test_faults.py", "-k", "not exactly"),
        (f"{_PROOF}/test_faults.py", "-k", "exactly"),
        drawn=120,
    ),
    Target(
        "analysis/cost/bounded_sums.py",
        (f"{_COST}/test_bounded_sums.py",),
        (_COST, "tests/cli/commands/test_report_cost.py"),
    ),
    Target(
        "analysis/cost/model.py",
        (f"{_COST}/test_cost_rows.py", f"{_COST}/test_model.py", f"{_COST}/test_upcalls.py"),
        (_COST, "tests/cli/commands/test_report_cost.py"),
    ),
    Target(
        "analysis/cost/domain_cost.py",
        (f"{_COST}/test_upcalls.py", f"{_COST}/test_model.py"),
        (_COST, "tests/cli/commands/test_report_cost.py"),
    ),
    Target(
        "analysis/summary/histogram.py",
        ("tests/analysis/summary/test_histogram.py",),
        ("tests/analysis/state_machine/test_tallies.py", "tests/analysis/summary/test_partial.py"),
    ),
    Target(
        "analysis/tables/delivery.py",
        ("tests/analysis/tables/test_delivery.py",),
        ("tests/analysis/report/test_build.py",),
    ),
    Target(
        "analysis/state_machine/tally_loops.py",
        ("tests/analysis/state_machine/test_tallies.py",),
        (
            "tests/analysis/state_machine/test_machine.py",
            "tests/analysis/summary/test_histogram.py",
            _AS_PYTHON,
        ),
        drawn=30,
    ),
    # Compiling each mutant takes 12 s of CPU, so only a sample is run.
    Target(
        "analysis/state_machine/loops.py",
        ("tests/analysis/state_machine/test_machine.py", "tests/analysis/state_machine/test_tallies.py"),
        (
            "tests/analysis/state_machine/test_edges.py",
            "tests/analysis/summary/test_histogram.py",
            "tests/analysis/summary/test_clock.py",
            _AS_PYTHON,
        ),
        drawn=200,
    ),
)


def chosen(modules: list[str]) -> list[Target]:
    """Return the targets of the named modules, or all targets if none is named.

    Raises:
        SystemExit: a module is not a target.
    """
    known = {target.module: target for target in TARGETS}
    unknown = [module for module in modules if module not in known]
    if unknown:
        raise SystemExit(f"mutants: not a target: {' '.join(unknown)}; the targets are {' '.join(known)}")
    return [known[module] for module in modules] or list(TARGETS)
