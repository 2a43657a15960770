"""Which part of the labelled data a group belongs to: decided by its name alone.

A group is what must not be torn apart: the windows of one genome, or the genes of one virus. A
window of a genome that was trained on is no test.
"""

import hashlib
from typing import Literal, get_args

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
VALIDATION = TEST = 0.15  # share of the groups


def place_of(group: str, seed: int) -> float:
    """Return a number from 0 to 1 for a group: the same on any machine, whatever others there are.

    It is the first eight bytes of the sha256 of seed and name.
    """
    digest = hashlib.sha256(f"{seed}\t{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def part_of(group: str, seed: int) -> Part:
    """Return the part of a group, by its place: below TEST, TEST + VALIDATION, or above."""
    place = place_of(group, seed)
    if place < TEST:
        return "test"
    return "validation" if place < TEST + VALIDATION else "train"
