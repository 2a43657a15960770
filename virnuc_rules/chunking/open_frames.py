"""Six-frame translation: the open frames of windows, with genetic code 1 exactly as in VirNucPro.

A frame is open when its translation has no stop (`*`) and is not empty. These details are
upstream's and are kept, since the published classifiers were trained with them:

* codons with anything but A, C, G, T are dropped from the protein, not translated to X;
* the reverse complement leaves such bases as they are;
* the nucleotides of a frame are `strand[f : f + 3 * len(protein) + 1]`: one base more than the
  codons have (where the window still has one), and too few where codons were dropped.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from Bio.Data import CodonTable
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.vocabulary import NO_REASON, STANDARD_CODE, Reason

_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_NOT_ACGT = 64  # a base that is none of A C G T; codons are 0..63, and 64.. with such a base
_UNKNOWN_CODONS = bytes(range(_NOT_ACGT, 256))


def _base_table() -> bytes:
    """Return the byte table base -> 0..3, else 64."""
    base = bytearray([_NOT_ACGT]) * 256
    for index, letter in enumerate(b"ACGT"):
        base[letter] = index
    return bytes(base)


_BASE = _base_table()


@functools.cache
def _tables(genetic_code: int) -> tuple[bytes, bytes]:
    """Return the byte tables codon -> amino acid, forward and reverse complement."""
    table = CodonTable.unambiguous_dna_by_id[genetic_code]
    code = {**table.forward_table, **dict.fromkeys(table.stop_codons, "*")}
    forward, reverse = bytearray(256), bytearray(256)
    for index, letters in enumerate(itertools.product("ACGT", repeat=3)):
        codon = "".join(letters)
        forward[index] = ord(code[codon])
        reverse[index] = ord(code[codon.encode().translate(_COMPLEMENT)[::-1].decode()])
    return bytes(forward), bytes(reverse)


@dataclass(frozen=True, slots=True)
class OpenFrames:
    """R open frames of W windows, in the order window, then F1 F2 F3 R1 R2 R3."""

    window: Int  # [R] row of the window
    frame: NDArray[np.int8]  # [R] code of a Frame
    start: Int  # [R] first base of the codons in `bases`, 0-based, on the forward strand
    end: Int  # [R] base after the last codon
    nucleotide: list[bytes]  # [R] upper case, read along the frame's strand
    protein: list[bytes]  # [R]
    reason: NDArray[np.int8]  # [W] code of a Reason; NO_REASON: it has an open frame


def open_frames(
    bases: bytes, start: Int, end: Int, genetic_code: int = STANDARD_CODE
) -> OpenFrames:
    """Find the open frames of the windows `bases[start[i]:end[i]]`.

    bases: upper-case letters; a window may lie anywhere in them, and windows may overlap.
    genetic_code: NCBI's number. Raises KeyError if Biopython has no such table.
    """
    tables = _tables(genetic_code)
    by_phase = _codons(bases)
    codons = by_phase.tobytes()
    offset = np.arange(3)
    count = np.maximum((end - start)[:, None] - offset, 0) // 3  # [W, 3] codons; same for R frames
    left = np.concatenate([start[:, None] + offset, end[:, None] - offset - 3 * count], axis=1)
    count = np.concatenate([count, count], axis=1)  # [W, 6]
    # Index of the frame's leftmost codon in `codons`.
    first = np.where(count > 0, left % 3 * by_phase.shape[1] + left // 3, 0)
    stop_free = _stop_free(codons, first, count, tables)
    window, frame = np.nonzero(stop_free)
    rows = np.stack([frame, first[window, frame], count[window, frame], start[window], end[window]])
    sequences = _sequences(bases, codons, rows, tables)
    translated = np.array([protein != b"" for _, protein in sequences], bool)

    reason = np.full(len(start), Reason.NO_OPEN_FRAME.code, np.int8)
    reason[window] = Reason.AMBIGUOUS.code  # no stop, but perhaps no known codon either
    reason[end - start < 3] = Reason.TOO_SHORT.code
    window, frame = window[translated], frame[translated]
    reason[window] = NO_REASON
    left = left[window, frame]
    return OpenFrames(
        window,
        frame.astype(np.int8),
        left,
        left + 3 * count[window, frame],
        [nucleotide for nucleotide, protein in sequences if protein],
        [protein for _, protein in sequences if protein],
        reason,
    )


def _stop_free(codons: bytes, first: Int, count: Int, tables: tuple[bytes, bytes]) -> Bool:
    """Tell which frames [W, 6] have codons (`count` of them from index `first` on) and no stop."""
    stops_of_both = bytes(ord("*") in pair for pair in zip(*tables, strict=True))
    either = np.flatnonzero(np.frombuffer(codons.translate(stops_of_both), np.bool_))
    codon = np.frombuffer(codons, np.uint8)[either]
    stop_free = count > 0
    for strand, table in zip((slice(0, 3), slice(3, 6)), tables, strict=True):
        is_stop = np.frombuffer(table, np.uint8) == ord("*")
        stops = np.append(either[is_stop[codon]], len(codons))
        next_stop = stops[np.searchsorted(stops, first[:, strand])]
        stop_free[:, strand] &= next_stop >= first[:, strand] + count[:, strand]
    return stop_free


def _codons(bases: bytes) -> NDArray[np.uint8]:
    """Return the code of the codon that begins at each base: base i is at [i % 3, i // 3].

    So a frame is a slice. The code is 16 * first + 4 * second + third base with A=0 C=1 G=2 T=3; it
    is 64 or above for a codon with another letter, or at the end of the bases.
    """
    base = np.frombuffer(bases.translate(_BASE), np.uint8)
    codons = np.full((3, len(base) // 3 + 1), _NOT_ACGT, np.uint8)
    if len(base) >= 3:
        first, second, third = base[:-2], base[1:-1], base[2:]
        # The shifts below lose bit 64, which marks other letters: it is set first.
        every = (first | second) & _NOT_ACGT
        every |= first << 4
        every |= second << 2
        every |= third
        for phase in range(3):
            part = every[phase::3]
            codons[phase, : len(part)] = part
    return codons


def _sequences(
    bases: bytes, codons: bytes, rows: Int, tables: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Return (nucleotides, protein) of each column of `rows`: frame, first, count, start, end."""
    forward, reverse = tables
    sequences = []
    for frame, first, count, start, end in rows.T.tolist():
        strand, translated = bases[start:end], codons[first : first + count]
        if frame < 3:
            protein = translated.translate(forward, _UNKNOWN_CODONS)
        else:
            protein = translated[::-1].translate(reverse, _UNKNOWN_CODONS)
            strand = strand.translate(_COMPLEMENT)[::-1]
            frame -= 3
        # One base more than the codons have: see the module's docstring.
        sequences.append((strand[frame : frame + 3 * len(protein) + 1], protein))
    return sequences
