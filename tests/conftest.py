"""What holds for every test: what is drawn at random varies, and a printed seed repeats a run."""

from __future__ import annotations

import hypothesis
import hypothesis.core
import pytest

# Deadlines and slow draws tell how busy the machine is.  Not Hypothesis's profile for CI, whose examples
# are the same for ever.
hypothesis.settings.register_profile(
    "xtrace",
    hypothesis.settings.get_profile("default"),
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("xtrace")


def _seed(config: pytest.Config) -> int | None:
    """Return pytest-randomly's seed, of the order, random and NumPy; None with -p no:randomly."""
    return config.getoption("randomly_seed") if config.pluginmanager.hasplugin("randomly") else None


@pytest.hookimpl(trylast=True)  # pytest-randomly chooses in its own
def pytest_configure(config: pytest.Config) -> None:
    # Unless --hypothesis-seed says another.
    if hypothesis.core.global_force_seed is None:
        hypothesis.core.global_force_seed = _seed(config)  # type: ignore[assignment]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # -q hides it above.
    if (seed := _seed(config)) is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"--randomly-seed={seed} repeats the order and the examples")
