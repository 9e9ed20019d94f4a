"""Blocks of plain sums, each in one compiled call, which holds no lock of the interpreter.

Every number goes through the operations of `engine.add_up` in the same order, none of them fused,
so that the bits are the same; only the sums of the survival report may be taken in another order.
A bfloat16 is the upper half of a float32: a shift widens it, an addition rounds to it. All this is
compiled when it is first called, and kept beside this file, or in the user's cache.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy
from llvmlite.ir import FloatType, IntType
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from prefreg.checkpoints.safetensors_file import read_into
from prefreg.composition.layout import PLAIN, WeightWork
from prefreg.composition.rounding import Tally
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.stored import BLOCK_ELEMENTS

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Numbers = NDArray[numpy.float32]

_CHUNK = 1024  # five rows of it stay in the first cache of a core
_LARGE_CHUNK = 1 << 14  # one row stays in the second

# Between these, sums of squares in float32 neither overflow nor lose what is small.
_LEAST, _MOST = 1e-25, 1e30


def _compiled(**options: Any) -> Callable[[_Function], _Function]:
    def compile_(function: _Function) -> _Function:
        made: _Function
        try:
            made = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # there is no folder to keep it in
            made = numba.njit(nogil=True, **options)(function)
        return made

    return compile_


@_compiled()
def _copy(source: _Numbers, target: _Numbers) -> None:
    for place in range(source.shape[0]):
        target[place] = source[place]


@_compiled()
def _widen(room: NDArray[numpy.uint32], narrow: bool, first: int, row: _Numbers) -> None:
    """Copy stored numbers from place `first` on to float32."""
    last = first + row.shape[0]
    if narrow:
        source, target = room.view(numpy.uint16)[first:last], row.view(numpy.uint32)
        for place in range(row.shape[0]):
            target[place] = numpy.uint32(source[place]) << numpy.uint32(16)
    else:
        _copy(room.view(numpy.float32)[first:last], row)


@_compiled()
def _add(total: _Numbers, eta: numpy.float32, row: _Numbers) -> None:
    for place in range(total.shape[0]):
        total[place] += eta * row[place]


@_compiled()
def _round(numbers: _Numbers, rounded: _Numbers) -> None:
    """Round to the nearest number of bfloat16, of two equally near ones to the even one."""
    source, target = numbers.view(numpy.uint32), rounded.view(numpy.uint32)
    for place in range(numbers.shape[0]):
        even = (source[place] >> numpy.uint32(16)) & numpy.uint32(1)
        carried = source[place] + numpy.uint32(0x7FFF) + even
        target[place] = carried & numpy.uint32(0xFFFF0000)


@_compiled()
def _store(numbers: _Numbers, narrow: bool, room: NDArray[numpy.uint32], first: int) -> None:
    """Copy float32 to where the result is stored."""
    last = first + numbers.shape[0]
    if narrow:
        source, target = numbers.view(numpy.uint32), room.view(numpy.uint16)[first:last]
        for place in range(numbers.shape[0]):
            target[place] = numpy.uint16(source[place] >> numpy.uint32(16))
    else:
        _copy(numbers, room.view(numpy.float32)[first:last])


@_compiled()
def _subtract(row: _Numbers, other: _Numbers, into: _Numbers) -> None:
    for place in range(row.shape[0]):
        into[place] = row[place] - other[place]


@_compiled(fastmath={"reassoc", "contract"})
def _tally(asked: _Numbers, left: _Numbers, zero: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Count what is not zero, and add the products up in the type of `zero`."""
    requested, changed = numpy.uint32(0), numpy.uint32(0)
    wanted, overlap, got = zero, zero, zero
    for place in range(asked.shape[0]):
        one, other = zero + asked[place], zero + left[place]
        requested += numpy.uint32(asked[place] != numpy.float32(0))
        changed += numpy.uint32(left[place] != numpy.float32(0))
        wanted += one * one
        overlap += one * other
        got += other * other
    return requested, changed, wanted, overlap, got


@_compiled()
def sum_block(
    rooms: NDArray[numpy.uint32],
    narrow: NDArray[numpy.bool_],
    etas: _Numbers,
    count: int,
) -> tuple[int, int, float, float, float]:
    """Make `rooms[1]` of float32(`rooms[0]`) + Σ `etas[i]`·`rooms[2 + i]`, rounded once.

    `narrow` says which rows hold bfloat16 rather than float32, in their first `count` places.
    Returns the numbers of a `Tally`: requested, changed, wanted, overlap, got. Where the sum is
    not finite, `wanted` or `got` is not.
    """
    rows = numpy.empty((5, _CHUNK), numpy.float32)
    requested, changed, wanted, overlap, got = 0, 0, 0.0, 0.0, 0.0
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        before, total, phi = rows[0, :size], rows[1, :size], rows[2, :size]
        asked, left = rows[3, :size], rows[4, :size]
        _widen(rooms[0], narrow[0], first, before)
        _copy(before, total)
        _subtract(before, before, asked)  # zeros, and NaN where the base is not finite
        for term in range(etas.shape[0]):
            _widen(rooms[2 + term], narrow[2 + term], first, phi)
            _add(total, etas[term], phi)
            if not narrow[1]:
                _add(asked, etas[term], phi)
        if narrow[1]:
            # A narrow dtype loses so much more than float32 that the sum stands for the request.
            _subtract(total, before, asked)
            _round(total, left)
            if not narrow[0]:
                _round(before, before)
        else:
            _copy(total, left)
        _store(left, narrow[1], rooms[1], first)
        _subtract(left, before, left)
        sums = _tally(asked, left, numpy.float32(0))
        if not (_LEAST < sums[2] < _MOST and sums[4] < _MOST):
            exact = _tally(asked, left, numpy.float64(0))
            wanted, overlap, got = wanted + exact[2], overlap + exact[3], got + exact[4]
        else:
            wanted, overlap, got = wanted + sums[2], overlap + sums[3], got + sums[4]
        requested += sums[0]
        changed += sums[1]
    return requested, changed, wanted, overlap, got


MOST_TERMS = 8
"""Of a sum in memory: a function is compiled for as many, and given nothing for those it lacks."""
_SIZE = numpy.uint32(0x7FFFFFFF)
_INFINITE = numpy.uint32(0x7F800000)
"""Without their sign, the bits of infinity and of what is no number are these or more."""
_HALF = numpy.uint32(0x8000)
"""What a number is away from, at least, of which rounding to bfloat16 makes infinity."""


def _recast(kind: Any, of: Any, llvm: Any) -> Any:
    @intrinsic
    def recast(_: Any, __: Any) -> Any:
        def take(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], llvm)

        return kind(of), take

    return recast


_as_float = _recast(types.float32, types.uint32, FloatType())
_as_bits = _recast(types.uint32, types.float32, IntType(32))


# Of arrays of uint16 the numbers are bfloat16. What numba is given for a function must have the
# same annotations as the function it is given.
def _number(stored: Any) -> Any:
    """Return a stored number as float32."""


@overload(_number, inline="always")
def _number_of_kind(stored: Any) -> Any:
    if isinstance(stored, types.Float):

        def widen(stored: Any) -> Any:
            return stored
    else:

        def widen(stored: Any) -> Any:
            return _as_float(numpy.uint32(stored) << numpy.uint32(16))

    return widen


def _put(target: Any, place: int, number: Any) -> Any:
    """Store a number, rounded as `_round` does; return the bits of its size, as stored or less."""


@overload(_put, inline="always")
def _put_as_kind(target: Any, place: int, number: Any) -> Any:
    if isinstance(target.dtype, types.Float):

        def put(target: Any, place: int, number: Any) -> Any:
            target[place] = number
            return _as_bits(number) & _SIZE
    else:

        def put(target: Any, place: int, number: Any) -> Any:
            bits = _as_bits(number)
            even = (bits >> numpy.uint32(16)) & numpy.uint32(1)
            rounded = bits + numpy.uint32(0x7FFF) + even
            target[place] = numpy.uint16(rounded >> numpy.uint32(16))
            return (bits & _SIZE) + _HALF

    return put


# One loop for one, two and three terms: so each number is read and written once.
@_compiled()
def _sum_one(source: Any, target: Any, etas: _Numbers, one: Any) -> Any:
    first, largest = etas[0], numpy.uint32(0)
    for place in range(target.shape[0]):
        number = _number(source[place]) + first * _number(one[place])
        largest = max(largest, _put(target, place, number))
    return largest


@_compiled()
def _sum_two(source: Any, target: Any, etas: _Numbers, one: Any, two: Any) -> Any:
    first, second, largest = etas[0], etas[1], numpy.uint32(0)
    for place in range(target.shape[0]):
        number = _number(source[place]) + first * _number(one[place])
        number += second * _number(two[place])
        largest = max(largest, _put(target, place, number))
    return largest


@_compiled()
def _sum_three(source: Any, target: Any, etas: _Numbers, one: Any, two: Any, three: Any) -> Any:
    first, second, third, largest = etas[0], etas[1], etas[2], numpy.uint32(0)
    for place in range(target.shape[0]):
        number = _number(source[place]) + first * _number(one[place])
        number += second * _number(two[place])
        number += third * _number(three[place])
        largest = max(largest, _put(target, place, number))
    return largest


@_compiled()
def _sum_few(source: Any, target: Any, etas: _Numbers, one: Any, two: Any, three: Any) -> Any:
    if etas.shape[0] == 1:
        return _sum_one(source, target, etas, one)
    if etas.shape[0] == 2:
        return _sum_two(source, target, etas, one, two)
    return _sum_three(source, target, etas, one, two, three)


@_compiled()
def add_into(
    out: Any,
    base: Any,
    etas: _Numbers,
    start: int,
    stop: int,
    # Numba takes 80 µs to look at what is in a tuple.
    phi_1: Any,
    phi_2: Any,
    phi_3: Any,
    phi_4: Any,
    phi_5: Any,
    phi_6: Any,
    phi_7: Any,
    phi_8: Any,
) -> bool:
    """Write float32(`base`) + Σ `etas[i]`·`phis[i]` into the places `start:stop` of `out`.

    Each is an array of float32, or of uint16 for bfloat16; `out` and `base` of the same kind, all
    φ of the same. There are `MOST_TERMS` of these, and at least one coefficient. Returns whether
    something that is not finite was written.
    """
    phis = (phi_1, phi_2, phi_3, phi_4, phi_5, phi_6, phi_7, phi_8)
    total = numpy.empty(_LARGE_CHUNK, numpy.float32)
    count, largest = etas.shape[0], numpy.uint32(0)
    for first in range(start, stop, _LARGE_CHUNK):
        last = min(first + _LARGE_CHUNK, stop)
        source, target, sums = base[first:last], out[first:last], total[: last - first]
        for term in range(0, count, 3):
            one = phis[term][first:last]
            two = phis[min(term + 1, count - 1)][first:last]
            three = phis[min(term + 2, count - 1)][first:last]
            some = etas[term : term + 3]
            if term == 0 and count <= 3:
                found = _sum_few(source, target, some, one, two, three)
            elif term == 0:
                found = _sum_few(source, sums, some, one, two, three)
            elif term + 3 < count:
                found = _sum_few(sums, sums, some, one, two, three)
            else:
                found = _sum_few(sums, target, some, one, two, three)
            largest = max(largest, found)
    return bool(largest >= _INFINITE)


class PlainBlocks:
    """Room for one thread to compose blocks of weights whose `is_plain` is true."""

    def __init__(self) -> None:
        """Take no memory before it is needed."""
        self._rooms = numpy.empty((0, BLOCK_ELEMENTS), numpy.uint32)

    def compose(
        self, work: WeightWork, source: int, start: int, stop: int, tally: Tally
    ) -> memoryview | None:
        """Return the bytes of the flat elements `start:stop`, valid until the next block.

        `source` is the base's open file. None where the sum is not finite, with nothing tallied.
        """
        spec = work.tensor.stored.spec
        vectors = [term.vector for term in work.terms if isinstance(term.vector, DenseVector)]
        dtypes = [spec.dtype, work.tensor.dtype, *(vector.dtype for vector in vectors)]
        if len(self._rooms) < len(dtypes):
            self._rooms = numpy.empty((len(dtypes), BLOCK_ELEMENTS), numpy.uint32)
        count = stop - start
        base, result, *rows = (
            room.data.cast("B")[: count * PLAIN[dtype]]
            for room, dtype in zip(self._rooms, dtypes, strict=False)
        )
        with work.reading():
            read_into(source, spec.offset + start * PLAIN[spec.dtype], base)
        for term, vector, row in zip(work.terms, vectors, rows, strict=True):
            vector.stored.read_bytes(row, term.name, start)
        narrow = numpy.array([dtype == "BF16" for dtype in dtypes])
        etas = numpy.array([term.eta for term in work.terms], numpy.float32)
        requested, changed, wanted, overlap, got = sum_block(self._rooms, narrow, etas, count)
        if not math.isfinite(wanted + got):
            return None
        tally.add(Tally(requested, changed, overlap=overlap, wanted=wanted, got=got))
        return result
