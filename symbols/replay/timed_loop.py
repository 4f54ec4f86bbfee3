"""The frame that timed loops run in: the addresses of code and data, the loop around a body, the driver.

All addresses are fixed and below 2 GB, so that any operand can reach them without a register, and
operands of untrusted code that use no register can be checked from the bytes.

The driver runs in a process that can only read, write and exit.  For each batch it reads one byte, calls
the functions in the schedule, stores TSC cycles beside them, and writes one byte.  A function gets (warm,
count) in rsi and rdi, times only ``count``, and returns cycles in rax and, in rdx, 0 if IA32_TSC_AUX,
where Linux keeps the CPU number, did not change.

Before it runs anything, the driver moves to a stack of its own in the data and unmaps all memory but the
program's.  A loop notes if its body leaves another stack pointer than was proved; the driver ends the process
if a function returns with another one.  The parent checks these and the rest: see GUARDS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from xtrace.symbols.x86.decode import RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Flow, InsnDecoder
from xtrace.symbols.x86.encode import Assembler, At, Gpr, Xmm

CODE_ADDRESS = 0x5000_0000
CODE_BYTES = 64 << 20
DATA_ADDRESS = 0x5800_0000

#: Fields of the control page, 8 bytes each.
_COUNT, _INDEX, _RESULT, _TIMED, _BEGIN, _AUX, _RUN_STACK, _BYTE = range(DATA_ADDRESS, DATA_ADDRESS + 64, 8)
COUNT_OFFSET, INDEX_OFFSET = 0, 8
#: What prctl() returned when the driver dropped its rights: 0 on success; not 0 before that.
SANDBOX_OFFSET = 64
_SANDBOX = DATA_ADDRESS + SANDBOX_OFFSET
#: From the child's script: the walls around it, and its PID.  From the driver: 0 if all other memory is gone.
WALLS_OFFSET, PID_OFFSET, UNMAPPED_OFFSET = 88, 96, 104
#: From a loop: 1 if its body left another stack pointer than was proved.
MOVED_OFFSET = 112
_MOVED = DATA_ADDRESS + MOVED_OFFSET
_UNMAPPED = DATA_ADDRESS + UNMAPPED_OFFSET
#: Address ranges to unmap, as pairs of address and size; the last is 0, 0.
GAPS_OFFSET = 0x400
_GAPS = DATA_ADDRESS + GAPS_OFFSET
#: struct sock_fprog and the filter that it points to.
FILTER_OFFSET = 128
_FILTER = DATA_ADDRESS + FILTER_OFFSET
#: Entries of four 64-bit words: function, warm, count, cycles.  The change of TSC_AUX overwrites the warm
#: count.
SCHEDULE_OFFSET = 0x2000
SCHEDULE_ENTRIES = 8192
_SCHEDULE = DATA_ADDRESS + SCHEDULE_OFFSET
_ENTRY_SHIFT = 5
#: The driver's stack grows down to the schedule's end; few bytes of it are used.
STACK_OFFSET = 0x45000
_STACK = DATA_ADDRESS + STACK_OFFSET
_STACK_BYTES = 256
#: Consecutive readings of the TSC.
SAMPLES_OFFSET = 0x50000
SAMPLE_COUNT = 4096
#: The memory that a sequence may access.
ARENA_ADDRESS = DATA_ADDRESS + 0x80000
ARENA_BYTES = 0x80000
#: The base of gs: the running CPU's own data, as guests access it.
CPU_ADDRESS = ARENA_ADDRESS + 0x1100
#: Lines that stay in the L1 cache; lines that are flushed before each timed run.
_HOT = ARENA_ADDRESS + ARENA_BYTES
_LINES = _HOT + 0x10000
_LINE_BYTES = 64
#: Passes between two flushes; each uses a line in its own page.
MISS_PASSES = 64
_PAGE_BYTES = 4096
_SET_BYTES = MISS_PASSES * _PAGE_BYTES
_MOST_MISSES = 4
#: For each pass the offset of its line; starts at index 1, because counters end at 0.
ORDER_OFFSET = 0x60000
_ORDER = DATA_ADDRESS + ORDER_OFFSET
#: Offset inside a line that avoids false conflicts with the first bytes of vcpu_info in the low 12 bits.
_INSIDE = 32
DATA_BYTES = _LINES - DATA_ADDRESS + _MOST_MISSES * _SET_BYTES
_SCHEDULE_END = SCHEDULE_OFFSET + (SCHEDULE_ENTRIES << _ENTRY_SHIFT)
_HOT_BYTES = 512
#: Where the addresses of a chain of misses are kept, after the words that hot stores write.
_DRAWN_COLD = _HOT + _HOT_BYTES - _LINE_BYTES
#: Parts of the data (begin, end) that no code writes: around the schedule, the stack, the samples, the order
#: of pages, and the arena.
GUARDS = (
    (0x800, SCHEDULE_OFFSET),
    (_SCHEDULE_END, STACK_OFFSET - _STACK_BYTES),
    (STACK_OFFSET, SAMPLES_OFFSET),
    (SAMPLES_OFFSET + 8 * SAMPLE_COUNT, ORDER_OFFSET),
    (ORDER_OFFSET + 8 * (MISS_PASSES + 1), ARENA_ADDRESS - DATA_ADDRESS),
    (_HOT - DATA_ADDRESS, _HOT - DATA_ADDRESS + _LINE_BYTES),
    (_HOT - DATA_ADDRESS + _HOT_BYTES, _LINES - DATA_ADDRESS),
)
#: Far more lines than the caches near the core hold: streams miss among them.
FAR_ADDRESS = 0x6000_0000
_FAR_LINES = 1 << 20
FAR_BYTES = _FAR_LINES * _LINE_BYTES
#: Where a stream keeps its last random number, and the constants of the generator.
_DRAWN = DATA_ADDRESS + 72
#: Memory that neither the caches nor the TLB hold: chains of misses draw addresses in it.  It does not fit
#: below 2 GB, so that its address is in a cell, and next to it a mask, one less than its size.
COLD_ADDRESS = 0x2_0000_0000
COLD_BYTES = 1 << 30
COLD_OFFSET, COLD_MASK_OFFSET = 80, 120
_COLD, _COLD_MASK = DATA_ADDRESS + COLD_OFFSET, DATA_ADDRESS + COLD_MASK_OFFSET
_DRAW_FACTOR, _DRAW_ADDED = 0x5851F42D, 0x14057B7F
#: Leaves as many upper bits of a random number as COLD_BYTES has addresses.
_COLD_SHIFT = 34

_WORD_BYTES = 8
#: Length of the chain: 60 x 3 cycles, the latency of imul on nearly all x86-64 CPUs since 2008.
_CHAIN_LINKS = 60
#: Length of a chain that each execution starts anew, so that executions can overlap: 20 x 3 cycles.
_FRESH_LINKS = 20
_LONG_FRESH_LINKS = 60
#: Length of the work after a sequence in a context with misses; it takes longer than a miss.
_SHADOW_LINKS = 1024

_SYS_READ, _SYS_WRITE, _SYS_MUNMAP, _SYS_EXIT, _SYS_PRCTL, _SYS_ARCH_PRCTL = 0, 1, 11, 60, 157, 158
#: The exit status of a child whose code strayed: the same as in probes/timing/child.py.
STRAYED = 104
_ARCH_SET_GS = 0x1001
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

Emit = Callable[[Assembler], None]


def _nothing(_: Assembler) -> None:
    return


@dataclass(frozen=True, slots=True)
class Body:
    """What a loop repeats.

    Attributes:
        emit: adds the code of one execution.
        begin: adds the code that runs once before the loop.
        functions: adds the functions that the execution calls, after the loop.
        counter: a register that the body does not use.
        chain: another such register, for a context with a dependent chain; -1 if there is none.
        stack: the stack pointer after an execution, None if it is not known.
    """

    emit: Emit
    begin: Emit = _nothing
    functions: Emit = _nothing
    counter: int = 15
    chain: int = 14
    stack: int | None = None


@dataclass(frozen=True, slots=True)
class LoopCode:
    """A function with the driver's calling convention; it may be placed anywhere.

    Attributes:
        most_count: most executions that one call may time; 0 for any number.
    """

    code: bytes
    most_count: int


@dataclass(frozen=True, slots=True)
class _Misses:
    """How a context misses: the number of lines, and whether by stores or loads."""

    lines: int
    store: bool


_MISSES = {
    "store_miss_1": _Misses(1, True),
    "store_miss_4": _Misses(4, True),
    "load_miss_1": _Misses(1, False),
}
_HOT_STORES = {"stores_8": 8, "stores_40": 40}
_STREAM_STORES = {"store_stream_1": 1, "store_stream_4": 4}
#: Words of a line that are stored past the caches.
_NON_TEMPORAL = {"nt_stream_1": 1, "nt_stream_8": 8}
#: Loads of which each needs the one before, of lines and pages that nothing holds.
_COLD_LOADS = {"cold_chain_2": 2, "cold_chain_4": 4}
_FRESH = {"alu_fresh": _FRESH_LINKS, "alu_fresh_180": _LONG_FRESH_LINKS}
#: Contexts that need a register of their own.
_CHAINED = {*_MISSES, *_STREAM_STORES, *_NON_TEMPORAL, *_COLD_LOADS, *_FRESH, "alu_chain"}


def loop(context: str, body: Body) -> LoopCode:
    """Return the loop that repeats ``body`` in one of calibration.CONTEXTS.

    Raises:
        ValueError: the body leaves no register for the context.
    """
    misses = _MISSES.get(context)
    counter = Gpr(body.counter)
    if context in _CHAINED and body.chain < 0:
        raise ValueError("it uses all registers: none is left for the dependent chain")
    asm = Assembler()
    run = asm.label()
    asm.op("MOV_RM64_R64", At(-1, _TIMED), Gpr(RDI))
    asm.op("MOV_R64_RM64", counter, Gpr(RSI))
    asm.op("CALL_REL32_64", run)
    asm.op("MOV_R64_RM64", counter, At(-1, _TIMED))
    if misses:
        again = asm.label()
        asm.mark(again)
        _point(asm, counter, body.chain)
        for number in range(misses.lines):
            asm.op("CLFLUSH_M8", _line(body.chain, number))
        asm.op("SUB_RM64_IMM8", counter, 1)
        asm.op("JNE_REL8_64", again)
        asm.op("MOV_R64_RM64", counter, At(-1, _TIMED))
    asm.op("MFENCE")
    _read_clock(asm)
    asm.op("MOV_RM64_R64", At(-1, _BEGIN), Gpr(RAX))
    asm.op("MOV_RM64_R64", At(-1, _AUX), Gpr(RCX))
    asm.op("LFENCE")
    asm.op("CALL_REL32_64", run)
    # Whatever is still in flight is part of what is timed.
    asm.op("MFENCE")
    _read_clock(asm)
    asm.op("SUB_R64_RM64", Gpr(RAX), At(-1, _BEGIN))
    asm.op("MOV_R64_RM64", Gpr(RDX), Gpr(RCX))
    asm.op("SUB_R64_RM64", Gpr(RDX), At(-1, _AUX))
    asm.op("RETNQ")
    _pad(asm)
    asm.mark(run)
    asm.op("MOV_RM64_R64", At(-1, _RUN_STACK), Gpr(RSP))
    if misses or context == "alu_chain":
        asm.op("MOV_R32_IMM32", Gpr(body.chain, 4), 3)
    body.begin(asm)
    again = asm.label()
    asm.mark(again)
    _context(asm, context, counter, body.chain, misses)
    body.emit(asm)
    if misses:
        _chain(asm, body.chain, _SHADOW_LINKS)
    asm.op("SUB_RM64_IMM8", counter, 1)
    asm.op("JNE_REL8_64", again)
    if body.stack is not None:
        kept = asm.label()
        asm.op("CMP_RM64_IMM32", Gpr(RSP), body.stack)
        asm.op("JE_REL8_64", kept)
        asm.op("MOV_RM64_IMM32", At(-1, _MOVED), 1)
        asm.mark(kept)
    asm.op("MOV_R64_RM64", Gpr(RSP), At(-1, _RUN_STACK))
    asm.op("RETNQ")
    body.functions(asm)
    return LoopCode(asm.code(CODE_ADDRESS), MISS_PASSES if misses else 0)


def miss_order(seed: int) -> bytes:
    """Return the contents of ORDER_OFFSET: pages in random order, a random line in each.

    Prefetchers follow any stride, even across pages, and then nothing would miss.
    """
    random = Random(seed)
    pages = random.sample(range(MISS_PASSES), MISS_PASSES)
    lines = [random.randrange(_PAGE_BYTES // _LINE_BYTES) for _ in pages]
    distances = [page * _PAGE_BYTES + line * _LINE_BYTES for page, line in zip(pages, lines, strict=True)]
    return struct.pack(f"<{MISS_PASSES + 1}Q", 0, *distances)


def _point(asm: Assembler, counter: Gpr, register: int) -> None:
    """Load the offset of this pass's line into a register."""
    asm.op("MOV_R64_RM64", Gpr(register), At(-1, _ORDER, counter.number, 8))


def _line(register: int, number: int) -> At:
    return At(register, _LINES + number * _SET_BYTES + _INSIDE)


def _context(asm: Assembler, context: str, counter: Gpr, chain: int, misses: _Misses | None) -> None:
    # Consecutive words, as structures and stacks are written.  With one line per store, stores would reach
    # the cache at half the rate, and an lfence among them would seem to cost nothing.
    for number in range(_HOT_STORES.get(context, 0)):
        asm.op("MOV_RM64_IMM32", At(-1, _HOT + _LINE_BYTES + number * _WORD_BYTES), number)
    if context in _FRESH:
        asm.op("MOV_R32_IMM32", Gpr(chain, 4), 3)
        _chain(asm, chain, _FRESH[context])
    if context == "alu_chain":
        _chain(asm, chain, _CHAIN_LINKS)
    _far_context(asm, context, counter, chain, misses)


def _far_context(asm: Assembler, context: str, counter: Gpr, chain: int, misses: _Misses | None) -> None:
    """Add the accesses that miss."""
    for number in range(_STREAM_STORES.get(context, 0)):
        # Back to back: this also measures how many misses memory handles at once with a fence, which may
        # be more than without it.
        _draw_line(asm, chain)
        asm.op("MOV_RM32_IMM32", At(chain, FAR_ADDRESS + _INSIDE), number)
    if context in _NON_TEMPORAL:
        _draw_line(asm, chain)
        for number in range(_NON_TEMPORAL[context]):
            asm.op("MOVNTI_M64_R64", At(chain, FAR_ADDRESS + number * _WORD_BYTES), counter)
    if context in _COLD_LOADS:
        # Each execution has a chain of its own, so that without the fence chains overlap.
        for number in range(_COLD_LOADS[context]):
            _draw_cold(asm, chain)
            asm.op("MOV_RM64_R64", At(-1, _DRAWN_COLD + number * _WORD_BYTES), Gpr(chain))
        asm.op("XOR_R32_RM32", Gpr(chain, 4), Gpr(chain, 4))
        for number in range(_COLD_LOADS[context]):
            # The memory holds zeros, but the processor does not know that: the next address waits.
            asm.op("ADD_R64_RM64", Gpr(chain), At(-1, _DRAWN_COLD + number * _WORD_BYTES))
            asm.op("MOV_R64_RM64", Gpr(chain), At(chain, _INSIDE))
    if misses:
        # One execution at a time: back to back, misses would overlap, and the loops would measure how many
        # of them memory handles at once.  The cost of a fence is then what it keeps from overlapping with
        # the miss, so work that does not depend on the miss follows.
        asm.op("LFENCE")
        _point(asm, counter, chain)
        for number in range(misses.lines):
            place = _line(chain, number)
            if misses.store:
                asm.op("MOV_RM32_IMM32", place, number)
            else:
                asm.op("MOVD_XMM_RM32", Xmm(15), place)


def _draw_line(asm: Assembler, register: int) -> None:
    """Set a register to the offset of a random line."""
    drawn = Gpr(register)
    asm.op("MOV_R64_RM64", drawn, At(-1, _DRAWN))
    asm.op("IMUL_R64_RM64_IMM32", drawn, drawn, _DRAW_FACTOR)
    asm.op("ADD_RM64_IMM32", drawn, _DRAW_ADDED)
    asm.op("MOV_RM64_R64", At(-1, _DRAWN), drawn)
    # The upper bits of such numbers are the random ones.
    asm.op("SHR_RM64_IMM8", drawn, 38)
    asm.op("AND_RM64_IMM32", drawn, (_FAR_LINES - 1) * _LINE_BYTES)


def _draw_cold(asm: Assembler, register: int) -> None:
    """Set a register to the address of a random line of the cold memory."""
    drawn = Gpr(register)
    asm.op("MOV_R64_RM64", drawn, At(-1, _DRAWN))
    asm.op("IMUL_R64_RM64_IMM32", drawn, drawn, _DRAW_FACTOR)
    asm.op("ADD_RM64_IMM32", drawn, _DRAW_ADDED)
    asm.op("MOV_RM64_R64", At(-1, _DRAWN), drawn)
    asm.op("SHR_RM64_IMM8", drawn, _COLD_SHIFT)
    asm.op("AND_R64_RM64", drawn, At(-1, _COLD_MASK))
    asm.op("AND_RM64_IMM8", drawn, -_LINE_BYTES)
    asm.op("ADD_R64_RM64", drawn, At(-1, _COLD))


def cold_cells(size_bytes: int) -> tuple[tuple[int, bytes], ...]:
    """Return the contents of the cells that name the cold memory, by offset.

    Args:
        size_bytes: a power of 2, at most COLD_BYTES.
    """
    return (
        (COLD_OFFSET, struct.pack("<Q", COLD_ADDRESS)),
        (COLD_MASK_OFFSET, struct.pack("<Q", size_bytes - 1)),
    )


def _chain(asm: Assembler, register: int, links: int) -> None:
    link = Assembler()
    link.op("IMUL_R64_RM64", Gpr(register), Gpr(register))
    asm.raw(link.code(CODE_ADDRESS) * links)


def _read_clock(asm: Assembler) -> None:
    """Leave the TSC in rax and TSC_AUX in rcx."""
    asm.op("RDTSCP")
    asm.op("SHL_RM64_IMM8", Gpr(RDX), 32)
    asm.op("OR_R64_RM64", Gpr(RAX), Gpr(RDX))


def _pad(asm: Assembler) -> None:
    """Separate timed code from other code."""
    for _ in range(16):
        asm.op("NOPD")


def chain_body(links: int, mnemonic: str, registers: tuple[int, ...]) -> Body:
    """Return equal instructions that take turns on ``registers``; with one register, each waits for the last.

    Args:
        mnemonic: "add" (1 cycle on all x86-64) or "imul".
    """
    name = {"add": "ADD_R64_RM64", "imul": "IMUL_R64_RM64"}[mnemonic]

    def begin(asm: Assembler) -> None:
        for register in (*registers, RBP):
            asm.op("MOV_R32_IMM32", Gpr(register, 4), 3)

    def emit(asm: Assembler) -> None:
        for number in range(links):
            asm.op(name, Gpr(registers[number % len(registers)]), Gpr(RBP))

    return Body(emit, begin)


def sampler() -> LoopCode:
    """Return a function that stores SAMPLE_COUNT consecutive readings of the TSC."""
    asm = Assembler()
    again = asm.label()
    asm.op("MOV_R32_IMM32", Gpr(RBX, 4), DATA_ADDRESS + SAMPLES_OFFSET)
    asm.op("MOV_R32_IMM32", Gpr(RCX, 4), SAMPLE_COUNT)
    asm.op("XOR_R32_RM32", Gpr(RSI, 4), Gpr(RSI, 4))
    asm.mark(again)
    asm.op("RDTSC")
    asm.op("SHL_RM64_IMM8", Gpr(RDX), 32)
    asm.op("OR_R64_RM64", Gpr(RAX), Gpr(RDX))
    asm.op("TEST_RM64_R64", Gpr(RSI), Gpr(RSI))
    asm.op("CMOVE_R64_RM64", Gpr(RSI), Gpr(RAX))
    asm.op("MOV_RM64_R64", At(RBX, 0), Gpr(RAX))
    asm.op("ADD_RM64_IMM8", Gpr(RBX), 8)
    asm.op("SUB_RM64_IMM8", Gpr(RCX), 1)
    asm.op("JNE_REL8_64", again)
    asm.op("SUB_R64_RM64", Gpr(RAX), Gpr(RSI))
    asm.op("XOR_R32_RM32", Gpr(RDX, 4), Gpr(RDX, 4))
    asm.op("RETNQ")
    return LoopCode(asm.code(CODE_ADDRESS), 1)


def driver() -> bytes:
    """Return the driver, which is placed at CODE_ADDRESS and never returns."""
    asm = Assembler()
    command, following, done, leave, strayed, unmap, unmapped = (asm.label() for _ in range(7))
    asm.op("MOV_R32_IMM32", Gpr(RSP, 4), _STACK)
    asm.op("MOV_R32_IMM32", Gpr(RBX, 4), _GAPS)
    asm.mark(unmap)
    asm.op("MOV_R64_RM64", Gpr(RDI), At(RBX, 0))
    asm.op("MOV_R64_RM64", Gpr(RSI), At(RBX, 8))
    asm.op("TEST_RM64_R64", Gpr(RSI), Gpr(RSI))
    asm.op("JE_REL8_64", unmapped)
    asm.op("MOV_R32_IMM32", Gpr(RAX, 4), _SYS_MUNMAP)
    asm.op("SYSCALL")
    asm.op("OR_RM64_R64", At(-1, _UNMAPPED), Gpr(RAX))
    asm.op("ADD_RM64_IMM8", Gpr(RBX), 16)
    asm.op("JMP_REL8_64", unmap)
    asm.mark(unmapped)
    _system_call(asm, _SYS_ARCH_PRCTL, _ARCH_SET_GS, CPU_ADDRESS, 0)
    _system_call(asm, _SYS_PRCTL, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _FILTER)
    asm.op("MOV_RM64_R64", At(-1, _SANDBOX), Gpr(RAX))
    asm.op("JMP_REL8_64", done)
    asm.mark(command)
    _system_call(asm, _SYS_READ, 0, _BYTE, 1)
    asm.op("CMP_RM64_IMM8", Gpr(RAX), 1)
    asm.op("JNE_REL8_64", leave)
    asm.op("MOV_RM64_IMM32", At(-1, _INDEX), 0)
    asm.mark(following)
    asm.op("MOV_R64_RM64", Gpr(RAX), At(-1, _INDEX))
    asm.op("CMP_R64_RM64", Gpr(RAX), At(-1, _COUNT))
    asm.op("JAE_REL8_64", done)
    asm.op("SHL_RM64_IMM8", Gpr(RAX), _ENTRY_SHIFT)
    asm.op("MOV_R64_RM64", Gpr(RSI), At(RAX, _SCHEDULE + 8))
    asm.op("MOV_R64_RM64", Gpr(RDI), At(RAX, _SCHEDULE + 16))
    asm.op("CALL_RM64", At(RAX, _SCHEDULE))
    asm.op("CMP_RM64_IMM32", Gpr(RSP), _STACK)
    asm.op("JNE_REL8_64", strayed)
    asm.op("MOV_R64_RM64", Gpr(RCX), At(-1, _INDEX))
    asm.op("SHL_RM64_IMM8", Gpr(RCX), _ENTRY_SHIFT)
    asm.op("MOV_RM64_R64", At(RCX, _SCHEDULE + 24), Gpr(RAX))
    asm.op("MOV_RM64_R64", At(RCX, _SCHEDULE + 8), Gpr(RDX))
    asm.op("ADD_RM64_IMM8", At(-1, _INDEX), 1)
    asm.op("JMP_REL8_64", following)
    asm.mark(done)
    _system_call(asm, _SYS_WRITE, 1, _BYTE, 1)
    asm.op("CMP_RM64_IMM8", Gpr(RAX), 1)
    asm.op("JE_REL8_64", command)
    asm.mark(leave)
    _system_call(asm, _SYS_EXIT, 0, 0, 0)
    asm.mark(strayed)
    _system_call(asm, _SYS_EXIT, STRAYED, 0, 0)
    asm.op("UD2")
    return asm.code(CODE_ADDRESS)


def driver_returns_to() -> int:
    """Return the address at which the driver goes on after a function."""
    insns = InsnDecoder(64).decode(driver(), CODE_ADDRESS)
    return next(insn.end for insn in insns if insn.flow is Flow.INDIRECT_CALL)


def _system_call(asm: Assembler, number: int, *arguments: int) -> None:
    """Add a system call; it clobbers rcx and r11."""
    for register, value in zip((RAX, RDI, RSI, RDX), (number, *arguments), strict=True):
        asm.op("MOV_R32_IMM32", Gpr(register, 4), value)
    asm.op("XOR_R32_RM32", Gpr(10, 4), Gpr(10, 4))
    asm.op("XOR_R32_RM32", Gpr(8, 4), Gpr(8, 4))
    asm.op("SYSCALL")


def clock_stub() -> bytes:
    """Return a C function that reads the TSC."""
    asm = Assembler()
    asm.op("LFENCE")
    asm.op("RDTSC")
    asm.op("SHL_RM64_IMM8", Gpr(RDX), 32)
    asm.op("OR_R64_RM64", Gpr(RAX), Gpr(RDX))
    asm.op("RETNQ")
    return asm.code(CODE_ADDRESS)


def cpuid_stub() -> bytes:
    """Return a C function (leaf, subleaf, where) that stores eax, ebx, ecx and edx as four 32-bit words."""
    asm = Assembler()
    where = Gpr(8)
    asm.op("MOV_R64_RM64", where, Gpr(RDX))
    asm.op("MOV_R64_RM64", Gpr(9), Gpr(RBX))
    asm.op("MOV_R32_RM32", Gpr(RAX, 4), Gpr(RDI, 4))
    asm.op("MOV_R32_RM32", Gpr(RCX, 4), Gpr(RSI, 4))
    asm.op("CPUID")
    for number, register in enumerate((RAX, RBX, RCX, RDX)):
        asm.op("MOV_RM32_R32", At(8, 4 * number), Gpr(register, 4))
    asm.op("MOV_R64_RM64", Gpr(RBX), Gpr(9))
    asm.op("RETNQ")
    return asm.code(CODE_ADDRESS)
