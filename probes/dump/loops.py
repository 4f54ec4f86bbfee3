"""The renderer's hot loops, which are compiled: choose the records to show and write their lines.

A line is rendered from a template: a list of operations, each of which copies a
literal and then writes one value.  templates.py makes the templates from the
catalogue; ``tests/oracle/render.py`` is the slow reference implementation.
"""

from __future__ import annotations

import numpy as np

from xtrace.probes.compiled.loop import I32, I64, I64_2D, U8, U16, U32, inlined_part, loop, part
from xtrace.probes.xen_abi import IDLE_DOMAIN

# What an operation writes after its literal.
PUT_NOTHING = 0
PUT_TSC = 1
PUT_TIME = 2
PUT_PCPU = 3
PUT_CURRENT = 4
PUT_CURRENT_JSON = 5
PUT_EVENT = 6
PUT_EVENT_HEX = 7
PUT_UNSIGNED = 8
PUT_SIGNED = 9
PUT_HEX = 10
PUT_NAME_ELSE_UNSIGNED = 11
PUT_NAME_ELSE_HEX = 12
#: The literal, the name and a closing quote; nothing at all if the value has no name.
PUT_NAME_IF_ANY = 13

# Columns of an operation; width is that of the column for time, pCPU and vCPU.
OP_PUT = 0
OP_LITERAL = 1
OP_LITERAL_BYTES = 2
OP_WORD = 3
OP_WORDS = 4
OP_SHIFT = 5
OP_BITS = 6
OP_TABLE = 7
OP_WIDTH = 8
OP_COLUMNS = 9

# Units of PUT_TIME.
UNIT_CYCLES = 0
UNIT_SECONDS = 1
UNIT_TSC = 2

# What a shape's records show about the vCPU that runs on their pCPU.
ROLE_NONE = 0
ROLE_RUNS = 1  # word 0 is {vcpu, dom} and runs from here on
ROLE_STOPS = 2  # word 0 is {vcpu, dom} and ran up to here
ROLE_LOST = 3  # word 1 is {dom, vcpu} and runs after the blind interval

#: The running vCPU is not known.
UNKNOWN_VCPU = -1

# Values in place of a shape's template.
TEMPLATE_MISSING = -1
TEMPLATE_BY_WORD = -2

_EVENT_MASK = 0x0FFF_FFFF
_NS_PER_S = 1_000_000_000
#: Up to this rate, the cycles of a fraction of a second times _NS_PER_S are less than 2^64.
_WIDE_HZ = 18_000_000_000

_ZERO = 0x30
_MINUS = 0x2D


def slot_of(key: int, slots: int) -> int:
    """Return the first slot to try for ``key``; ``slots`` is a power of two."""
    return (key ^ (key >> 20) ^ (key >> 32)) & (slots - 1)


_slot_of = part(slot_of)


@part
def _find(slot_key, slot_template, key):
    mask = len(slot_key) - 1
    slot = _slot_of(key, len(slot_key))
    while slot_template[slot] >= 0:
        if slot_key[slot] == key:
            return np.int64(slot_template[slot])
        slot = (slot + 1) & mask
    return np.int64(TEMPLATE_MISSING)


@part
def _holds(values, value):
    for at in range(len(values)):
        if values[at] == value:
            return True
    return False


@loop
def choose(
    row: int, count: int, limit: int,
    tsc: I64, pcpu: U16, shape: U16, start: U32, words: U32,
    shape_role: U8, shape_shown: U8, shape_template: I32,
    slot_key: I64, slot_template: I32,
    running: I64,
    pcpu_chosen: U8, domains: I64, vcpus: I64, numbers: I64,
    from_tsc: int, last_tsc: int,
    out_row: U32, out_vcpu: I64, out_template: I32,
) -> tuple[int, int]:  # fmt: skip
    """List the rows to show from ``row`` on, each with the running vCPU and its template.

    A vCPU is encoded as domain << 16 | vcpu.  A record of a vCPU that starts or stops running
    counts as a record of that vCPU.  With no domains all match; likewise with no vCPUs and no numbers.

    Returns:
        (row where it stopped, rows chosen).  It stops at the end of the batch, at a row whose
        template is missing, or when ``limit`` rows are chosen.
    """
    by_domain = len(domains) > 0
    by_vcpu = len(vcpus) + len(numbers) > 0
    while row < len(tsc) and count < limit:
        kind = shape[row]
        on = pcpu[row]
        at = np.int64(start[row])
        template = np.int64(shape_template[kind])
        shown = shape_shown[kind] != 0 and pcpu_chosen[on] != 0 and from_tsc <= tsc[row] <= last_tsc
        if shown:
            if template == TEMPLATE_BY_WORD:
                template = _find(slot_key, slot_template, (np.int64(kind) << 32) | np.int64(words[at]))
            if template < 0:
                break
        role = shape_role[kind]
        if role == ROLE_RUNS or role == ROLE_STOPS:
            running[on] = words[at]
        elif role == ROLE_LOST:
            packed = np.int64(words[at + 1])
            running[on] = ((packed & 0xFFFF) << 16) | (packed >> 16)
        vcpu = running[on]
        if role == ROLE_STOPS:
            running[on] = UNKNOWN_VCPU
        if shown and by_domain:
            shown = vcpu >= 0 and _holds(domains, vcpu >> 16)
        if shown and by_vcpu:
            shown = vcpu >= 0 and (_holds(vcpus, vcpu) or _holds(numbers, vcpu & 0xFFFF))
        if shown:
            out_row[count] = row
            out_vcpu[count] = vcpu
            out_template[count] = template
            count += 1
        row += 1
    return row, count


@inlined_part
def _load_8(source, at):
    """Return 8 bytes as a uint64, lowest first; LLVM makes one load of it."""
    value = np.uint64(source[at])
    for place in range(1, 8):
        value |= np.uint64(source[at + place]) << np.uint64(8 * place)
    return value


@inlined_part
def _store_8(out, at, value):
    """Store the 8 bytes of a uint64, lowest first; LLVM makes one store of it."""
    for place in range(8):
        out[at + place] = np.uint8((value >> np.uint64(8 * place)) & np.uint64(0xFF))


@inlined_part
def _copy_16(out, at, source, begin):
    """Copy 16 bytes, also within one array."""
    low = _load_8(source, begin)
    high = _load_8(source, begin + 8)
    _store_8(out, at, low)
    _store_8(out, at + 8, high)


# The functions below may write past the position that they return; the next write overwrites the excess.


@part
def _put_bytes(out, at, source, begin, count):
    _copy_16(out, at, source, begin)
    done = 16
    while done < count:
        _copy_16(out, at + done, source, begin + done)
        done += 16
    return at + count


@part
def _put_spaces(out, at, end):
    """Write up to 16 spaces and return the greater of ``at`` and ``end``."""
    _store_8(out, at, np.uint64(0x2020_2020_2020_2020))
    _store_8(out, at + 8, np.uint64(0x2020_2020_2020_2020))
    return max(at, end)


@part
def _eight_digits(value):
    """Return the 8 decimal digits of a number below 10**8 as bytes 0 to 9, first digit in the lowest byte.

    Splits into halves three times, all parts in parallel.  10486 / 2**20 and 103 / 2**10 replace
    1 / 100 and 1 / 10, which is exact for numbers this small.
    """
    high = value // np.uint64(10_000)
    fours = high | ((value - high * np.uint64(10_000)) << np.uint64(32))
    high = ((fours * np.uint64(10_486)) >> np.uint64(20)) & np.uint64(0x0000_007F_0000_007F)
    twos = high | ((fours - high * np.uint64(100)) << np.uint64(16))
    high = ((twos * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F_000F_000F_000F)
    return high | ((twos - high * np.uint64(10)) << np.uint64(8))


@part
def _put_eight(out, at, value):
    """Write a number below 10**8 as 8 digits, with leading zeros."""
    _store_8(out, at, _eight_digits(value) | np.uint64(0x3030_3030_3030_3030))
    return at + 8


@part
def _put_decimal(out, at, value):
    """Write an unsigned 64-bit number in decimal and return its end."""
    ten = np.uint64(10)
    myriad = np.uint64(10_000)
    digits = 1
    rest = value
    while rest >= myriad:
        rest //= myriad
        digits += 4
    if rest >= np.uint64(1000):
        digits += 3
    elif rest >= np.uint64(100):
        digits += 2
    elif rest >= ten:
        digits += 1
    end = at + digits
    to = end - 1
    hundred = np.uint64(100)
    while value >= hundred:
        quotient = value // hundred
        pair = np.uint32(value - quotient * hundred)
        tens = pair // np.uint32(10)
        out[to - 1] = np.uint8(_ZERO) + np.uint8(tens)
        out[to] = np.uint8(_ZERO) + np.uint8(pair - tens * np.uint32(10))
        value = quotient
        to -= 2
    if value >= ten:
        quotient = value // ten
        out[to] = np.uint8(_ZERO) + np.uint8(value - quotient * ten)
        value = quotient
        to -= 1
    out[to] = np.uint8(_ZERO) + np.uint8(value)
    return end


@part
def _eight_hex(value):
    """Return the 8 hexadecimal digits of a 32-bit number as ASCII, first digit in the lowest byte."""
    spread = (value | (value << np.uint64(16))) & np.uint64(0x0000_FFFF_0000_FFFF)
    spread = (spread | (spread << np.uint64(8))) & np.uint64(0x00FF_00FF_00FF_00FF)
    spread = (spread | (spread << np.uint64(4))) & np.uint64(0x0F0F_0F0F_0F0F_0F0F)
    is_letter = ((spread + np.uint64(0x0606_0606_0606_0606)) >> np.uint64(4)) & np.uint64(
        0x0101_0101_0101_0101
    )
    text = spread + np.uint64(0x3030_3030_3030_3030) + is_letter * np.uint64(0x27)
    # Now the last digit is in the lowest byte: reverse the bytes.
    text = (text >> np.uint64(32)) | (text << np.uint64(32))
    pairs = np.uint64(0x0000_FFFF_0000_FFFF)
    text = ((text >> np.uint64(16)) & pairs) | ((text & pairs) << np.uint64(16))
    singles = np.uint64(0x00FF_00FF_00FF_00FF)
    return ((text >> np.uint64(8)) & singles) | ((text & singles) << np.uint64(8))


@part
def _put_small_hex(out, at, value):
    """Write a 32-bit number in hexadecimal, without leading zeros."""
    digits = (
        np.int64(1)
        + (value >= np.uint64(0x10))
        + (value >= np.uint64(0x100))
        + (value >= np.uint64(0x1000))
        + (value >= np.uint64(0x1_0000))
        + (value >= np.uint64(0x10_0000))
        + (value >= np.uint64(0x100_0000))
        + (value >= np.uint64(0x1000_0000))
    )
    _store_8(out, at, _eight_hex(value) >> np.uint64(8 * (8 - digits)))
    return at + digits


@part
def _put_hex(out, at, value):
    out[at] = np.uint8(_ZERO)
    out[at + 1] = np.uint8(0x78)
    high = value >> np.uint64(32)
    low = value & np.uint64(0xFFFF_FFFF)
    if high == np.uint64(0):
        return _put_small_hex(out, at + 2, low)
    at = _put_small_hex(out, at + 2, high)
    _store_8(out, at, _eight_hex(low))
    return at + 8


@part
def _put_right(out, at, width, begin, end):
    """Move the text from ``begin`` to ``end`` into a column of ``width`` at ``at``, right-aligned."""
    length = end - begin
    at = _put_spaces(out, at, at + width - length)
    return _put_bytes(out, at, out, begin, length)


@part
def _put_time(out, at, width, unit, tsc, origin, hz):
    """Write a time right-aligned in a column; it is first composed after the column, then moved."""
    begin = at + width + 16
    end = begin
    if unit == UNIT_TSC:
        end = _put_decimal(out, end, np.uint64(tsc))
        return _put_right(out, at, width, begin, end)
    since = tsc - origin
    magnitude = np.uint64(since)
    if since < 0:
        out[end] = np.uint8(_MINUS)
        end += 1
        magnitude = np.uint64(0) - magnitude
    if unit == UNIT_CYCLES:
        end = _put_decimal(out, end, magnitude)
    else:
        rate = np.uint64(hz)
        whole = magnitude // rate
        cycles = magnitude - whole * rate
        if rate <= np.uint64(_WIDE_HZ):
            ns = cycles * np.uint64(_NS_PER_S) // rate
        else:
            tenths = cycles * np.uint64(_NS_PER_S // 10)
            tens = tenths // rate
            ns = tens * np.uint64(10) + (tenths - tens * rate) * np.uint64(10) // rate
        end = _put_decimal(out, end, whole)
        first = ns // np.uint64(100_000_000)
        out[end] = np.uint8(0x2E)
        out[end + 1] = np.uint8(_ZERO) + np.uint8(first)
        end = _put_eight(out, end + 2, ns - first * np.uint64(100_000_000))
    return _put_right(out, at, width, begin, end)


@part
def _put_vcpu(out, at, vcpu):
    out[at] = np.uint8(0x64)
    if vcpu < 0:
        out[at + 1] = np.uint8(0x3F)
        out[at + 2] = np.uint8(0x76)
        out[at + 3] = np.uint8(0x3F)
        return at + 4
    at = _put_decimal(out, at + 1, np.uint64(vcpu >> 16))
    out[at] = np.uint8(0x76)
    return _put_decimal(out, at + 1, np.uint64(vcpu & 0xFFFF))


@part
def _put_current(out, at, vcpu, fixed):
    """Write the running vCPU; for the idle domain "idle", because its vCPU number is the pCPU."""
    if vcpu >> 16 == IDLE_DOMAIN:
        return _put_bytes(out, at, fixed, 0, 4)
    return _put_vcpu(out, at, vcpu)


@part
def _find_name(name_value, begin, end, value):
    """Return the index of ``value`` among ascending values, or -1."""
    low = begin
    high = end
    while low < high:
        middle = (low + high) >> 1
        if name_value[middle] < value:
            low = middle + 1
        else:
            high = middle
    if low < end and name_value[low] == value:
        return low
    return np.int64(-1)


@loop
def render(
    first: int, end: int,
    chosen_row: U32, chosen_vcpu: I64, chosen_template: I32,
    tsc: I64, pcpu: U16, start: U32, words: U32,
    template_op: I64, template_timed: U8, ops: I64_2D, literals: U8,
    table_name: I64, name_value: I64, name_place: I64, name_bytes: I64,
    fixed: U8,
    unit: int, origin: int, hz: int,
    out: U8,
) -> int:  # fmt: skip
    """Write the lines of chosen rows from ``first`` to before ``end`` and return the bytes written.

    ``out`` must have room for each line at its longest, and ``literals`` and ``fixed`` must have 16 spare
    bytes at the end, because bytes are copied 16 at a time.
    """
    at = 0
    for index in range(first, end):
        row = np.int64(chosen_row[index])
        template = chosen_template[index]
        begin = np.int64(start[row])
        timed = template_timed[template]
        for op in range(template_op[template], template_op[template + 1]):
            put = ops[op, OP_PUT]
            literal = ops[op, OP_LITERAL]
            if put >= PUT_UNSIGNED:
                word = begin + ops[op, OP_WORD]
                value = np.uint64(words[word])
                if ops[op, OP_WORDS] == 2:
                    value |= np.uint64(words[word + 1]) << np.uint64(32)
                value = value >> np.uint64(ops[op, OP_SHIFT])
                bits = ops[op, OP_BITS]
                if bits < 64:
                    value &= (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
                name = np.int64(-1)
                table = ops[op, OP_TABLE]
                if table >= 0 and value >> np.uint64(32) == np.uint64(0):
                    name = _find_name(name_value, table_name[table], table_name[table + 1], np.int64(value))
                if put == PUT_NAME_IF_ANY and name < 0:
                    continue
                at = _put_bytes(out, at, literals, literal, ops[op, OP_LITERAL_BYTES])
                if name >= 0:
                    at = _put_bytes(out, at, literals, name_place[name], name_bytes[name])
                    if put == PUT_NAME_IF_ANY:
                        out[at] = np.uint8(0x22)
                        at += 1
                elif put == PUT_HEX or put == PUT_NAME_ELSE_HEX:
                    at = _put_hex(out, at, value)
                else:
                    if put == PUT_SIGNED and value >> np.uint64(bits - 1):
                        out[at] = np.uint8(_MINUS)
                        at += 1
                        value = np.uint64(0) - value
                        if bits < 64:
                            value &= (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
                    at = _put_decimal(out, at, value)
                continue
            at = _put_bytes(out, at, literals, literal, ops[op, OP_LITERAL_BYTES])
            if put == PUT_TIME:
                width = ops[op, OP_WIDTH]
                if not timed and tsc[row] == 0:
                    # There is no timed record before it on its pCPU.
                    at = _put_spaces(out, at, at + width)
                    out[at - 1] = np.uint8(_MINUS)
                else:
                    at = _put_time(out, at, width, unit, tsc[row], origin, hz)
            elif put == PUT_TSC:
                at = _put_decimal(out, at, np.uint64(tsc[row]))
            elif put == PUT_PCPU:
                column = at + ops[op, OP_WIDTH]
                at = _put_spaces(out, _put_decimal(out, at, np.uint64(pcpu[row])), column)
            elif put == PUT_CURRENT:
                column = at + ops[op, OP_WIDTH]
                at = _put_spaces(out, _put_current(out, at, chosen_vcpu[index], fixed), column)
            elif put == PUT_CURRENT_JSON:
                if chosen_vcpu[index] < 0:
                    at = _put_bytes(out, at, fixed, 16, 4)
                else:
                    out[at] = np.uint8(0x22)
                    at = _put_vcpu(out, at + 1, chosen_vcpu[index])
                    out[at] = np.uint8(0x22)
                    at += 1
            elif put == PUT_EVENT or put == PUT_EVENT_HEX:
                header = words[begin - 1 - 2 * np.int64(timed)]
                event = np.uint64(header & np.uint32(_EVENT_MASK))
                if put == PUT_EVENT:
                    at = _put_decimal(out, at, event)
                else:
                    at = _put_hex(out, at, event)
    return at
