"""Repeats at both ends of a contig, the mark of a complete viral genome.

A direct one (DTR) is the same sequence at both ends: of a circular genome, or of one that is packed
with more than its length. With an inverted one (ITR) each end is the reverse complement of the
other. The shortest of 20 bases, and the limit for one base in it, are those of CheckV (Nayfach et
al., Nature Biotechnology 39, 2021).
"""

from virnuc_rules.reading.fastx import Contig
from virnuc_rules.vocabulary import TerminalRepeat

SHORTEST = 20  # bases of a repeat
LONGEST = 1000
SHORTEST_CONTIG = 1000  # a read is no genome
_MOST_OF_ONE = 0.7  # fraction of one base in a repeat
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def terminal_repeat(contig: Contig) -> TerminalRepeat | None:
    """Return the kind of a contig's terminal repeat; a direct one where it has both.

    Repeats match in every base, A C G T or U. Not a repeat of both ends is one of the whole contig:
    its first 20 bases come again within the first 1,000.
    """
    if contig.length < SHORTEST_CONTIG:
        return None
    size = min(LONGEST, contig.length // 2)
    head, tail = (
        contig.bases(start, start + size).upper().replace(b"U", b"T")
        for start in (0, contig.length - size)
    )
    seed = head[:SHORTEST]
    if set(seed) - set(b"ACGT") or head.find(seed, 1) >= 0:
        return None
    at = tail.find(seed)
    while at >= 0:
        if head.startswith(tail[at:]) and _is_varied(tail[at:]):
            return TerminalRepeat.DTR
        at = tail.find(seed, at + 1)
    is_inverted = tail[::-1].translate(_COMPLEMENT).startswith(seed) and _is_varied(seed)
    return TerminalRepeat.ITR if is_inverted else None


def _is_varied(repeat: bytes) -> bool:
    return max(map(repeat.count, (b"A", b"C", b"G", b"T"))) <= _MOST_OF_ONE * len(repeat)
