"""Set up every test: a printed seed repeats what is random, and nothing may be left on the machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import hypothesis
import hypothesis.core
import pytest

import leftovers

ROOT = Path(__file__).parents[1]

# What a command prints depends on it; tests of other terminals set their own.
os.environ["TERM"] = "xterm-256color"

# Deadlines and slow draws only measure how busy the machine is.  Not Hypothesis's profile for CI, whose
# examples never change.
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
    """Return pytest-randomly's seed (for the order, random and NumPy); None with -p no:randomly."""
    return config.getoption("randomly_seed") if config.pluginmanager.hasplugin("randomly") else None


@pytest.hookimpl(trylast=True)  # after pytest-randomly has chosen its seed
def pytest_configure(config: pytest.Config) -> None:
    # Unless --hypothesis-seed sets another one.
    if hypothesis.core.global_force_seed is None:
        hypothesis.core.global_force_seed = _seed(config)  # type: ignore[assignment]
    is_worker = hasattr(config, "workerinput")
    if not is_worker and not os.access(ROOT, os.W_OK):
        _keep_apart(config)
    config.pluginmanager.register(_Worker(config) if is_worker else _Controller(config))


def _keep_apart(config: pytest.Config) -> None:
    """Give Hypothesis a folder where the checkout is read-only: otherwise it warns, which is an error here.

    xdist's workers inherit this environment.
    """
    apart = tempfile.TemporaryDirectory(prefix="xtrace-tests-")
    config.add_cleanup(apart.cleanup)
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", apart.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # -q hides the seed in the header.
    if (seed := _seed(config)) is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"--randomly-seed={seed} repeats the order and the examples")


class _Worker:
    """A process that runs tests: what a test leaves running is killed after it, however the test ended."""

    def __init__(self, config: pytest.Config) -> None:
        self.left: list[str] = []
        leftovers.adopt()
        if hasattr(config, "workeroutput"):
            config.workeroutput["left"] = self.left

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        held = leftovers.held()
        result = yield
        left = [*leftovers.end_processes(), *sorted(leftovers.held() - held)]
        self.left += [f"{item.nodeid}: {one}" for one in left]
        return result


class _Controller(_Worker):
    """The process that the user started: the run fails if anything was left over."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._machine = leftovers.Machine()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        self.left += getattr(node, "workeroutput", {}).get("left", [])
        if error:
            # The children of a worker that died, for example of its time limit.
            self.left += leftovers.end_processes()

    @pytest.hookimpl(wrapper=True, trylast=True)  # after xdist has ended, before the summary
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        self.left += self._machine.left()
        if self.left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left:
            terminalreporter.section("left over by the tests", red=True)
            for line in self.left:
                terminalreporter.write_line(line)
