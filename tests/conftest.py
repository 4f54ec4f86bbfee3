"""What holds for every test: a printed seed repeats what is random, and nothing is left on the machine."""

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
    is_worker = hasattr(config, "workerinput")
    if not is_worker and not os.access(ROOT, os.W_OK):
        _keep_apart(config)
    config.pluginmanager.register(_Worker(config) if is_worker else _Controller(config))


def _keep_apart(config: pytest.Config) -> None:
    """Give tests of a checkout that cannot be written a folder for what they would keep in it.

    Each process would compile its loops else, and hypothesis warn, which is an error here.  xdist's workers
    have the environment of who started them.
    """
    apart = tempfile.TemporaryDirectory(prefix="xtrace-tests-")
    config.add_cleanup(apart.cleanup)
    for name in ("NUMBA_CACHE_DIR", "HYPOTHESIS_STORAGE_DIRECTORY"):
        os.environ.setdefault(name, apart.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # -q hides it above.
    if (seed := _seed(config)) is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"--randomly-seed={seed} repeats the order and the examples")


class _Worker:
    """Where tests run: what a test leaves running ends with it, whatever ended the test."""

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
    """The process that the user started: its run fails where anything was left."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self._machine = leftovers.Machine()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        self.left += getattr(node, "workeroutput", {}).get("left", [])
        if error:
            # What a worker that died had started, its time limit being one reason.
            self.left += leftovers.end_processes()

    @pytest.hookimpl(wrapper=True, trylast=True)  # behind xdist's end, before the summary
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        self.left += self._machine.left()
        if self.left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left:
            terminalreporter.section("left behind by the tests", red=True)
            for line in self.left:
                terminalreporter.write_line(line)
