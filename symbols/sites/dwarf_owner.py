"""Use DWARF to drop touches through structures that merely have a pointer at the same offset.

Only structures reached from an argument or a global variable whose type is in
DWARF are checked; touches that DWARF says nothing about are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from xtrace.symbols.dwarf.variables import parameter_structs, variable_structs
from xtrace.symbols.flow.values import CONSTANT, Value
from xtrace.symbols.image.image import Image
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.vcpu_info import Layout

#: Argument registers of the System V ABI, in order.
_ARGUMENTS_64 = (7, 6, 2, 1, 8, 9)
#: Argument registers of GCC's -mregparm=3, in order.
_ARGUMENTS_32 = (0, 2, 1)


def foreign(image: Image, layout: Layout, found: Mapping[int, Touch]) -> set[int]:
    """Return the addresses of touches that go through a structure other than the CPU structure."""
    places = {
        address: touch.flow.accesses[address].place for address, touch in found.items() if touch.spot.by_field
    }
    arguments = {
        address: index for address, place in places.items() if (index := _argument(image, place)) >= 0
    }
    globals_ = {
        address: place.path[0]
        for address, place in places.items()
        if place.root == CONSTANT and len(place.path) == 2
    }
    parameters = parameter_structs(image, {found[address].flow.entry for address in arguments})
    variables = variable_structs(image, set(globals_.values()))
    owners = {address: variables.get(variable, "") for address, variable in globals_.items()}
    for address, index in arguments.items():
        structs = parameters.get(found[address].flow.entry, ())
        owners[address] = structs[index] if index < len(structs) else ""
    # A learned field has no structure name; in all known guests the name contains "cpu".
    wanted = {layout.struct} if layout.struct else {owner for owner in owners.values() if "cpu" in owner}
    return {address for address, owner in owners.items() if wanted and owner and owner not in wanted}


def _argument(image: Image, place: Value) -> int:
    """Return the index of the argument through which a place was reached, -1 if none."""
    root = place.root
    if not isinstance(root, tuple) or len(place.path) != 1 or not isinstance(root[1], int):
        return -1
    if root[0] == "slot" and image.bits == 32 and root[1] > 0:
        return root[1] // 4 - 1  # above the return address
    if root[0] != "entry":
        return -1
    registers = _ARGUMENTS_64 if image.bits == 64 else _ARGUMENTS_32
    return registers.index(root[1]) if root[1] in registers else -1
