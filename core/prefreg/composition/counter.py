"""Random numbers that depend on a key and a place alone, so that no order of work changes them."""

import hashlib
import json

import numpy

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def key_of(*parts: object) -> int:
    """Return the key of a stream of random numbers, named by strings and numbers."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def random_bits(key: int, start: int, count: int) -> numpy.ndarray:
    """Return the 64-bit numbers at the places `start` to `start + count` of a stream.

    This is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), whose state at any place is known.
    """
    first = (key + (start + 1) * _STEP) & _MASK
    bits = numpy.arange(count, dtype=numpy.uint64)
    bits *= numpy.uint64(_STEP)
    bits += numpy.uint64(first)
    bits ^= bits >> numpy.uint64(30)
    bits *= numpy.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> numpy.uint64(27)
    bits *= numpy.uint64(0x94D049BB133111EB)
    bits ^= bits >> numpy.uint64(31)
    return bits
