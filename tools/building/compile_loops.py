"""Compile the hot loops into a library, with numba, LLVM and a linker.

usage: compile_loops.py OUTPUT [MACHINE]     (MACHINE: x86_64 or aarch64, default this machine's)

Numba compiles each loop (XTRACE_LOOPS=numba).  A function is added for each, whose only argument is a frame
of int64 (probes/compiled/loop.py), so that nothing outside this program knows how numba passes arrays.  What
only Python needs is dropped, LLVM optimises all loops together for the oldest processor of the type, and the
result is linked without any library: it needs neither numba nor Python nor a libc.
"""

from __future__ import annotations

import fcntl
import importlib.util
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: The modules of the loops; what else they import from xtrace is found.
MODULES = (
    "xtrace.analysis.state_machine.loops",
    "xtrace.analysis.state_machine.tally_loops",
    "xtrace.analysis.state_machine.delivery_loops",
    "xtrace.probes.dump.loops",
    "xtrace.probes.reader.loops",
)


class Machine(NamedTuple):
    """A type of processor: LLVM's and zig's names of the target, and the oldest processor that will do."""

    triple: str
    zig: str
    processor: str


MACHINES = {
    "x86_64": Machine("x86_64-unknown-linux-gnu", "x86_64-linux-gnu", "x86-64"),
    "aarch64": Machine("aarch64-unknown-linux-gnu", "aarch64-linux-gnu", "generic"),
}


class BuildError(Exception):
    """The library cannot be made; the text says why."""


def compile_loops(output: Path, machine: str, modules: Sequence[str] = MODULES) -> None:
    """Write the library of the loops in some modules to ``output``, unless it is already there and current.

    Raises:
        BuildError: there is no linker, or numba has no compiler for the machine.
        OSError: ``output`` cannot be written.
    """
    if machine not in MACHINES:
        raise BuildError(f"no loops can be compiled for {machine}: numba compiles them on first use there")
    output.parent.mkdir(parents=True, exist_ok=True)
    # Two builds of one checkout: the second one waits, and finds the library of the first.
    with _locked(output.parent), _numba_for(MACHINES[machine]):
        from xtrace.probes.compiled.library import is_current

        if machine == platform.machine() and is_current(output, ROOT):
            return
        begin = time.monotonic()
        sys.stderr.write("xtrace: compiling the hot loops, which takes about 10 s\n")
        module = _module(modules)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".loops") as scratch:
            library = Path(scratch) / output.name
            _link(_object(module, MACHINES[machine], Path(scratch) / "loops.o"), library, machine)
            library.replace(output)
        sys.stderr.write(f"xtrace: loops compiled in {time.monotonic() - begin:.0f} s\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _numba_for(machine: Machine) -> Iterator[None]:
    """Have xtrace imported from the checkout, and its loops compiled by numba for the oldest processor.

    Numba must not be imported yet: it reads its settings then.
    """
    os.environ["XTRACE_LOOPS"] = "numba"
    # For the vector width that numba's own optimisation chooses; another machine's is converted afterwards.
    os.environ["NUMBA_CPU_NAME"] = machine.processor
    os.environ["NUMBA_CPU_FEATURES"] = ""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as nothing_kept:
        # A loop that is loaded from numba's cache has no intermediate code any more.
        os.environ["NUMBA_CACHE_DIR"] = nothing_kept
        yield


def _index_as_written() -> None:
    """Compile indices without Python's rule for negative ones, which takes a fifth of the loops' time.

    No loop has one: tests run them in Python, where it is an error (probes/compiled/plain.py).

    Raises:
        BuildError: this numba has no such function to replace.
    """
    from numba.core import types
    from numba.np import arrayobj

    if not hasattr(arrayobj, "fix_integer_index"):
        raise BuildError("this numba resolves indices in another way: use the one that pyproject.toml names")

    def as_written(context: Any, builder: Any, kind: Any, index: Any, _length: Any) -> Any:
        return context.cast(builder, index, kind, types.intp if kind.signed else types.uintp)

    arrayobj.fix_integer_index = as_written


def _module(modules: Sequence[str]) -> Any:
    """Return all loops as one LLVM module, with functions that take frames and the text about sources."""
    import llvmlite.binding as llvm

    _index_as_written()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        compiled = list(pool.map(_compiled, modules))
    texts = {name: text for found, _ in compiled for name, text in found.items()}
    module = llvm.parse_assembly(_about([path for _, sources in compiled for path in sources]))
    for text in texts.values():
        for part in text:
            module.link_in(llvm.parse_assembly(part))
    for item in (*module.functions, *module.global_variables):
        if not item.is_declaration and item.name not in {*texts, "xtrace_sources"}:
            item.linkage = "internal"
    return module


def _compiled(module: str) -> tuple[dict[str, tuple[str, str]], list[Path]]:
    """Compile the loops of a module; return their _texts() by name, and the files that were imported."""
    from xtrace.probes.compiled.loop import LOOPS

    import_module(module)
    prefix = module.replace(".", "_") + "_"
    return {name: _texts(name, one) for name, one in LOOPS.items() if name.startswith(prefix)}, _sources()


def _texts(name: str, loop: Any) -> tuple[str, str]:
    """Return numba's intermediate code of a loop, and that of a function that calls it with a frame.

    Numba's own builders make the call: how it passes arrays and returns results is its business.
    """
    from llvmlite import ir
    from numba.core import types
    from numba.np.arrayobj import populate_array

    (compiled,) = loop.overloads.values()
    context, signature = compiled.target_context, compiled.signature
    int64 = ir.IntType(64)
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [int64.as_pointer()]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    places = iter(range(1 << 10))

    def word() -> Any:
        return builder.load(builder.gep(function.args[0], [ir.Constant(int64, next(places))]))

    arguments = []
    for kind in signature.args:
        if not isinstance(kind, types.Array):
            value = word()
            arguments.append(builder.trunc(value, ir.IntType(1)) if kind is types.boolean else value)
            continue
        item = context.get_data_type(kind.dtype)
        size = context.get_abi_sizeof(item)
        data = builder.inttoptr(word(), item.as_pointer())
        shape = [word() for _ in range(kind.ndim)]
        strides = [ir.Constant(int64, size)]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        array = context.make_array(kind)(context, builder)
        populate_array(array, data, shape, strides, ir.Constant(int64, size), meminfo=None)
        arguments.append(array._getvalue())
    callee = context.declare_function(module, compiled.fndesc)
    status, found = context.call_conv.call_function(
        builder, callee, signature.return_type, signature.args, arguments
    )
    results = [found]
    if signature.return_type is types.none:
        results = []
    elif isinstance(signature.return_type, types.BaseTuple):
        results = [builder.extract_value(found, at) for at in range(len(signature.return_type))]
    for at, result in enumerate(results):
        builder.store(result, builder.gep(function.args[0], [ir.Constant(int64, at)]))
    builder.ret(status.code)
    return compiled.library.get_llvm_str(), str(module)


def _about(sources: Sequence[Path]) -> str:
    """Return a module with the text about the files that the loops come from."""
    from xtrace.probes.compiled.library import text_about

    text = text_about(sorted({str(path.relative_to(ROOT)) for path in sources}), ROOT).encode()
    content = "".join(f"\\{byte:02x}" for byte in text)
    return f'@xtrace_sources = constant [{len(text) + 1} x i8] c"{content}\\00"\n'


def _sources() -> list[Path]:
    """Return every file of xtrace that is loaded now, and this one."""
    loaded = [
        Path(module.__file__).resolve()
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "xtrace" and getattr(module, "__file__", None)
    ]
    return [*loaded, Path(__file__).resolve()]


def _object(module: Any, machine: Machine, path: Path) -> Path:
    """Optimise the module for the machine, and write its code."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(machine.triple)
    code = target.create_target_machine(
        cpu=machine.processor, features="", opt=3, reloc="pic", codemodel="small"
    )
    module.triple = machine.triple
    module.data_layout = str(code.target_data)
    tuning = llvm.create_pipeline_tuning_options(3)
    tuning.loop_vectorization = tuning.slp_vectorization = True
    builder = llvm.create_pass_builder(code, tuning)
    builder.getModulePassManager().run(module, builder)
    path.write_bytes(code.emit_object(module))
    return path


def _link(code: Path, library: Path, machine: str) -> None:
    command = [
        *linker(machine), "-shared", "-nostdlib", "-Wl,--gc-sections", "-Wl,-z,defs", "-s", "-o",
        str(library), str(code),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command[:3])}: {done.stderr.strip()[:1000]}")


def linker(machine: str) -> Sequence[str]:
    """Return the command of a C compiler that links for ``machine``: this machine's, else zig's from PyPI.

    Raises:
        BuildError: there is neither.
    """
    if machine == platform.machine() and (own := own_linker()):
        return (own,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", MACHINES[machine].zig)
    raise BuildError("the loops cannot be linked: no C compiler here, and no ziglang (pip install ziglang)")


def own_linker() -> str | None:
    """Return this machine's C compiler if it can link: it may lack ld or be a stub."""
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found is None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            empty = Path(scratch) / "empty.s"
            empty.touch()
            command = [found, "-shared", "-nostdlib", "-o", f"{scratch}/empty.so", str(empty)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return found
    return None


def main(arguments: list[str]) -> int:
    """Compile; return the exit code."""
    machine = arguments[1] if len(arguments) > 1 else platform.machine()
    try:
        compile_loops(Path(arguments[0]), machine)
    except (BuildError, OSError) as error:
        sys.stderr.write(f"compile_loops.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
