"""Which part of the labelled data a group belongs to: decided by its name and the seed alone.

All sequences of a group are in one part: the windows of one genome, or the genes of one virus. A
classifier must not be tested with windows of a genome that it was trained on.
"""

import hashlib
from typing import Literal, get_args

Part = Literal["train", "validation", "test"]
Parts = Literal["all", "train", "validation", "test"]  # flat: an option cannot be a union
PARTS: tuple[Part, ...] = get_args(Part)
VALIDATION = TEST = 0.15  # fractions of the groups


def hash_fraction(group: str, seed: int) -> float:
    """Return a fraction from 0 to 1 that depends on nothing but name and seed.

    It is the first eight bytes of the sha256 of both, divided by 2**64.
    """
    digest = hashlib.sha256(f"{seed}\t{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def part_of(group: str, seed: int) -> Part:
    """Return the part of a group: `hash_fraction` below TEST, TEST + VALIDATION, or above."""
    fraction = hash_fraction(group, seed)
    if fraction < TEST:
        return "test"
    return "validation" if fraction < TEST + VALIDATION else "train"
