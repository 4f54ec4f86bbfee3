"""A running process: its code is exchanged and put back, and whatever happens to it meanwhile is right."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from builders.trial_targets import code_in, is_as_built, opened, patches_of, symbol, target_of
from builders.workers import built, must_be_consistent, running
from xtrace.probes.trial import ptrace
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.target import Patch, TargetGoneError, TrialError, places


def _alternate(target: ProcessTarget, seconds: float, least: int = 0) -> int:
    """Exchange to and fro for a time, and at least so often: a busy machine takes longer."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end or count < least:
        target.switch(count % 2)
        target.wait(0.0005)
        count += 1
    return count


def test_bytes_are_exchanged_while_it_works_and_put_back(program: Path) -> None:
    with running(program, "list", "64", "--event-us", "400") as worker:
        with opened(program, worker.pid) as target:
            target.switch(1)
            for patch in patches_of(program, 0):
                assert target.read(patch.address, len(patch.original)) == patch.arms[1]
            before = target.reading()
            target.wait(0.2)
            after = target.reading()
            assert after.counters[0] > before.counters[0]
            assert 0 < after.running_ns - before.running_ns <= 0.3e9
            _alternate(target, 0.5, 20)
        assert is_as_built(worker.pid, program)
        must_be_consistent(worker.end())


def test_a_program_placed_at_random_is_found(tmp_path: Path) -> None:
    program = built(tmp_path, "lfence", "inline", "-fPIE", LINK="-pie")
    with running(program, "hash", "16") as worker:
        with opened(program, worker.pid) as target:
            assert target.offset > 1 << 40
            _alternate(target, 0.2, 5)
            assert target.reading().counters[0] > 0
        assert is_as_built(worker.pid, program, target.offset)


def test_threads_that_start_and_end_meanwhile_are_stopped_too(program: Path) -> None:
    with running(program, "spl", "16", "--threads", "4") as worker:
        with opened(program, worker.pid) as target:
            _alternate(target, 0.5, 10)
        assert is_as_built(worker.pid, program)
        must_be_consistent(worker.end())


def test_children_and_programs_that_it_starts_go_on(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "forker.c"
    source.write_text(
        """
#include <stdio.h>
#include <stdint.h>
#include <pthread.h>
#include <unistd.h>
#include <sys/wait.h>
#include <spawn.h>
extern char **environ;
volatile uint64_t worker_units, children_wrong;
__attribute__((noinline)) void x86_fence(void) { __asm__ volatile("lfence"); }
__attribute__((noinline)) void place(void) { x86_fence(); __asm__ volatile(""); }
static void *thread(void *p) { return p; }
int main(void)
{
	printf("ready\\n");
	fflush(stdout);
	for (;;) {
		pthread_t other;
		pid_t child;
		char *arguments[] = {"/bin/true", NULL};
		int status;

		for (int i = 0; i < 1000; i++)
			place();
		pthread_create(&other, NULL, thread, NULL);
		pthread_join(other, NULL);
		if (!(child = fork())) {
			usleep(2000);
			/* The child's code must be as built, whatever the parent's is. */
			_exit(((volatile unsigned char *)(uintptr_t)place)[0] != 0xe8);
		}
		waitpid(child, &status, 0);
		if (status)
			children_wrong++;
		if (!posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ))
			waitpid(child, &status, 0);
		if (!(child = vfork()))
			_exit(0);
		waitpid(child, &status, 0);
		worker_units++;
	}
}
"""
    )
    forker = tmp_path / "forker"
    subprocess.run(
        ["gcc", "-O2", "-fcf-protection=none", "-no-pie", "-pthread", "-o", forker, source], check=True
    )
    with running(forker) as worker:
        target = target_of(forker, worker.pid)
        at = symbol(forker, "place")
        call = target.read(at, 5)
        if call[0] != 0xE8:
            pytest.fail(f"place() begins with {call.hex()}, not with a call")
        nop = bytes.fromhex("0f1f440000")
        try:
            target.open([Patch(at, call, (call, nop))])
            target.switch(1)
            target.wait(1.0)
            _alternate(target, 0.5)
            done = target.reading().counters[0]
            wrong = int.from_bytes(target.read(symbol(forker, "children_wrong"), 8), "little")
        finally:
            target.close()
        assert is_as_built(worker.pid, forker)
    assert done > 3
    assert wrong == 0


def test_a_process_stopped_by_job_control_stays_stopped(program: Path) -> None:
    with running(program, "list", "16") as worker:
        with opened(program, worker.pid) as target:
            os.kill(worker.pid, signal.SIGSTOP)
            target.wait(0.05)
            before = target.reading()
            _alternate(target, 0.2, 5)
            assert target.reading().counters == before.counters
            os.kill(worker.pid, signal.SIGCONT)
            target.wait(0.2)
            assert target.reading().counters > before.counters
            os.kill(worker.pid, signal.SIGSTOP)
            target.wait(0.05)
        assert Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        assert is_as_built(worker.pid, program)
        os.kill(worker.pid, signal.SIGCONT)
        must_be_consistent(worker.end())


def test_it_ends_in_mid_trial(program: Path) -> None:
    with running(program, "list", "16") as worker, opened(program, worker.pid) as target:
        target.switch(1)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(TargetGoneError, match="ended"):
            _alternate(target, 10)
        assert not target.alive()


def test_it_executes_another_program_in_mid_trial(tmp_path: Path) -> None:
    source = tmp_path / "changes.c"
    source.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <unistd.h>\n#include <signal.h>\n"
        "volatile uint64_t worker_units;\nstatic volatile sig_atomic_t go;\n"
        "static void on(int n) { go = n; }\n"
        'int main(void) { signal(SIGUSR1, on); printf("ready\\n"); fflush(stdout);\n'
        'while (!go) worker_units++; execl("/bin/sleep", "sleep", "60", NULL); }\n'
    )
    program = tmp_path / "changes"
    subprocess.run(["gcc", "-O1", "-no-pie", "-o", program, source], check=True)
    with running(program) as worker:
        target = target_of(program, worker.pid)
        at = symbol(program, "main")
        byte = target.read(at, 1)
        try:
            target.open([Patch(at, byte, (byte, b"\x90"))])
            target.switch(1)
            os.kill(worker.pid, signal.SIGUSR1)
            with pytest.raises(TargetGoneError, match="executed another program"):
                _alternate(target, 10)
        finally:
            target.close()
        # It goes on, and nothing was written into it.
        deadline = time.monotonic() + 5
        while Path(f"/proc/{worker.pid}/comm").read_text().strip() != "sleep":
            assert time.monotonic() < deadline
        assert Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] in "SR"


def test_other_code_than_the_images_is_refused(program: Path, tmp_path: Path) -> None:
    other = built(tmp_path, "mfence")
    with running(program, "list", "16") as worker:
        with pytest.raises(TrialError, match="does not run the code of"):
            target_of(other, worker.pid)
        # A breakpoint, as a debugger or a uprobe leaves it.
        memory = os.open(f"/proc/{worker.pid}/mem", os.O_RDWR)
        at = patches_of(program, 0)[0].address
        original = os.pread(memory, 1, at)
        os.kill(worker.pid, signal.SIGSTOP)
        os.pwrite(memory, b"\xcc", at)
        with pytest.raises(TrialError, match=f"{at:#x} as linked has cc.*breakpoint"):
            target_of(program, worker.pid)
        os.pwrite(memory, original, at)
        os.close(memory)
        os.kill(worker.pid, signal.SIGCONT)
        target_of(program, worker.pid).close()


def test_a_debugger_on_it_is_refused(program: Path) -> None:
    with running(program, "list", "16") as worker:
        ptrace.request(ptrace.SEIZE, worker.pid)
        try:
            with pytest.raises(TrialError, match=f"traced by process {os.getpid()}"):
                target_of(program, worker.pid)
        finally:
            ptrace.request(ptrace.INTERRUPT, worker.pid)
            os.waitpid(worker.pid, ptrace.WALL)
            ptrace.request(ptrace.DETACH, worker.pid)


def test_a_second_trial_is_refused(program: Path) -> None:
    with running(program, "list", "16") as worker:
        target = target_of(program, worker.pid)
        with pytest.raises(TrialError, match="another trial runs on it"):
            target_of(program, worker.pid)
        target.close()
        target_of(program, worker.pid).close()


def test_code_that_changes_meanwhile_ends_the_trial(program: Path) -> None:
    with running(program, "list", "16") as worker:
        target = target_of(program, worker.pid)
        patches = patches_of(program, target.offset)
        target.open(patches)
        at = patches[0].address
        memory = os.open(f"/proc/{worker.pid}/mem", os.O_RDWR)
        target.switch(1)
        os.pwrite(memory, b"\x90", at + 1)
        with pytest.raises(TrialError, match="its code changed at"):
            target.switch(0)
        with pytest.raises(TrialError, match="bytes that the trial did not write"):
            target.close()
        found = code_in(worker.pid, program)
        os.pwrite(memory, patches[0].original, at)
        os.close(memory)
        assert is_as_built(worker.pid, program)
        assert found != code_in(worker.pid, program)


@pytest.mark.parametrize(("pid", "message"), [(0x7FFF_FFF0, "does not exist"), (0, "itself")])
def test_what_is_no_other_process_is_refused(program: Path, pid: int, message: str) -> None:
    with pytest.raises(TrialError, match=message):
        target_of(program, pid or os.getpid())


def test_arms_must_have_the_originals_length() -> None:
    assert places([Patch(1, b"ab", (b"ab", b"cd"))]) == 2
    with pytest.raises(ValueError, match="other lengths"):
        places([Patch(1, b"ab", (b"ab", b"c"))])
    with pytest.raises(ValueError, match="different arms"):
        places([Patch(1, b"a", (b"a",)), Patch(2, b"a", (b"a", b"b"))])


def test_the_kernel_says_who_shares_memory(program: Path) -> None:
    with running(program, "list", "16") as worker:
        assert ptrace.shares_memory(worker.pid, worker.pid)
        assert not ptrace.shares_memory(worker.pid, os.getpid())
