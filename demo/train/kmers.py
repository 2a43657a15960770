"""Which sequences share words of 31 bases, on either strand, and which bases these words cover."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.training.words import FACTOR

K = 31
Keys = NDArray[np.uint64]
_CODE = np.full(256, 4, np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)
_HASH_BITS = 28
_AMBIGUOUS = np.uint64(2**64 - 1)


def kmers(bases: bytes) -> Keys:
    """Return the K-mer at each base as an integer, the smaller of both strands; uint64 [n - K + 1].

    All bits are set where a base is not A, C, G or T.
    """
    code = _CODE[np.frombuffer(bases, np.uint8)]
    if len(code) < K:
        return np.empty(0, np.uint64)
    unknown = np.concatenate([[0], np.cumsum(code == 4)])
    forward = _packed(code & 3)
    reverse = _packed((3 - (code & 3))[::-1])[::-1]
    return np.where(unknown[K:] == unknown[:-K], np.minimum(forward, reverse), _AMBIGUOUS)


def _packed(code: NDArray[np.uint8]) -> Keys:
    """Return each K bases in two bits a base, built from words of 1, 2, 4, ... bases."""
    power, length, packed, done = code.astype(np.uint64), 1, np.zeros(len(code), np.uint64), 0
    while done < K:
        if K & length:
            packed = packed[: len(power) - done] << np.uint64(2 * length) | power[done:]
            done += length
        power = power[:-length] << np.uint64(2 * length) | power[length:]
        length *= 2
    return packed


@dataclass(frozen=True, slots=True)
class Known:
    """The K-mers of some sequences."""

    keys: Keys  # sorted
    possible: NDArray[np.bool_]  # [2**_HASH_BITS] by hash: False where no key has it; for speed

    @classmethod
    def of(cls, sequences: Iterable[bytes]) -> Self:
        """Return the K-mers of sequences."""
        keys = np.unique(kmers(b"N".join(sequences)))
        keys = keys[keys != _AMBIGUOUS]
        possible = np.zeros(2**_HASH_BITS, bool)
        possible[_hash(keys)] = True
        return cls(keys, possible)

    def cover(self, bases: bytes) -> NDArray[np.bool_]:
        """Return for each base whether one of the K-mers covers it; bool [n]."""
        change = np.zeros(len(bases) + 1, np.int64)
        own = kmers(bases)
        begin = np.flatnonzero(self.possible[_hash(own)])
        index = np.minimum(np.searchsorted(self.keys, own[begin]), len(self.keys) - 1)
        begin = begin[self.keys[index] == own[begin]] if len(self.keys) else begin[:0]
        np.add.at(change, begin, 1)
        np.add.at(change, begin + K, -1)
        return np.cumsum(change)[:-1] > 0


def sampled(keys: Keys) -> Keys:
    """Return an eighth of the K-mers, by their hash; none with an ambiguous base."""
    return keys[(keys != _AMBIGUOUS) & (_hash(keys) % np.uint64(8) == 0)]


def _hash(keys: Keys) -> Keys:
    return keys * FACTOR >> np.uint64(64 - _HASH_BITS)
