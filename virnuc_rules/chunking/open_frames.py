"""Six-frame translation: the open frames of windows, exactly as VirNucPro finds them.

A frame is open when its translation has no stop (`*`) and is not empty. The quirks are upstream's
and are kept, since the published classifiers were trained with them:

* codons with anything but A, C, G, T are dropped from the protein, not translated to X;
* the reverse complement leaves such bases as they are;
* the nucleotides of a frame are `strand[f : f + 3 * len(protein) + 1]`: one base more than the
  codons have (where the window still has one), and too few where codons were dropped.
"""

from dataclasses import dataclass

import numpy as np
from Bio.Data import CodonTable
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.vocabulary import GENETIC_CODE, NO_REASON, Reason

_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_NOT_ACGT = 64  # a base that is none of A C G T; codons are 0..63, and 64.. with such a base
_UNKNOWN_CODONS = bytes(range(_NOT_ACGT, 256))


def _tables() -> tuple[bytes, bytes, bytes]:
    """Byte tables: base -> 0..3 (else 64), codon -> amino acid, codon -> that of its complement."""
    standard = CodonTable.unambiguous_dna_by_id[GENETIC_CODE]
    code = {**standard.forward_table, **dict.fromkeys(standard.stop_codons, "*")}
    base = bytearray([_NOT_ACGT]) * 256
    for number, letter in enumerate(b"ACGT"):
        base[letter] = number
    forward, reverse = bytearray(256), bytearray(256)
    for number in range(64):
        codon = "".join("ACGT"[number >> shift & 3] for shift in (4, 2, 0))
        forward[number] = ord(code[codon])
        reverse[number] = ord(code[codon.encode().translate(_COMPLEMENT)[::-1].decode()])
    return bytes(base), bytes(forward), bytes(reverse)


_BASE, _FORWARD, _REVERSE = _tables()
_STOPS = bytes(ord("*") in pair for pair in zip(_FORWARD, _REVERSE, strict=True))


@dataclass(frozen=True, slots=True)
class OpenFrames:
    """R open frames of W windows, in the order window, then F1 F2 F3 R1 R2 R3."""

    window: Int  # [R] row of the window
    frame: NDArray[np.int8]  # [R] code of a Frame
    start: Int  # [R] first base of the codons in the buffer, 0-based, on the forward strand
    end: Int  # [R] base after the last codon
    nucleotide: list[bytes]  # [R] upper case, read along the frame's strand
    protein: list[bytes]  # [R]
    reason: NDArray[np.int8]  # [W] code of a Reason; NO_REASON: it has an open frame


def open_frames(
    bases: bytes, start: Int, end: Int, excluded: NDArray[np.int8] | None = None
) -> OpenFrames:
    """Find the open frames of the windows `bases[start[i]:end[i]]`.

    bases: upper-case letters; a window may lie anywhere in them, and windows may overlap.
    excluded: [W] code of a Reason; where it is not NO_REASON, the window is not looked at.
    """
    codons = _codons(bases)
    stride = codons.shape[1]
    offset = np.arange(3)
    number = np.maximum((end - start)[:, None] - offset, 0) // 3  # [W, 3], as on the other strand
    left = np.concatenate([start[:, None] + offset, end[:, None] - offset - 3 * number], axis=1)
    number = np.concatenate([number, number], axis=1)  # [W, 6] codons of a frame
    # Place of the frame's leftmost codon in `flat`.
    place = np.where(number > 0, left % 3 * stride + left // 3, 0)
    flat = codons.tobytes()
    stop_free = (number > 0) & _without_stops(flat, place, number)
    if excluded is not None:
        stop_free[excluded != NO_REASON] = False
    window, frame = np.nonzero(stop_free)
    rows = np.stack(
        [frame, place[window, frame], number[window, frame], start[window], end[window]]
    )
    sequences = _sequences(bases, flat, rows)
    translated = np.array([protein != b"" for _, protein in sequences], bool)

    reason = np.full(len(start), Reason.NO_OPEN_FRAME.code, np.int8)
    reason[window] = Reason.AMBIGUOUS.code  # no stop, but perhaps no known codon either
    reason[end - start < 3] = Reason.TOO_SHORT.code
    window, frame = window[translated], frame[translated]
    reason[window] = NO_REASON
    if excluded is not None:
        reason = np.where(excluded != NO_REASON, excluded, reason)
    left = left[window, frame]
    return OpenFrames(
        window,
        frame.astype(np.int8),
        left,
        left + 3 * number[window, frame],
        [nucleotide for nucleotide, protein in sequences if protein],
        [protein for _, protein in sequences if protein],
        reason,
    )


def _codons(bases: bytes) -> NDArray[np.uint8]:
    """Number the codon that begins at every base, phase-major: base i is at [i % 3, i // 3].

    So the codons of a frame lie side by side and a frame is a slice. A=0 C=1 G=2 T=3, the first
    base counts 16; 64 and above where a base is none of these, or the bases end.
    """
    base = np.frombuffer(bases.translate(_BASE), np.uint8)
    codons = np.full((3, len(base) // 3 + 1), _NOT_ACGT, np.uint8)
    if len(base) >= 3:
        first, second, third = base[:-2], base[1:-1], base[2:]
        # 64 << 4 and 64 << 2 fall out of the byte, so the flag is set apart.
        every = (first | second) & _NOT_ACGT
        every |= first << 4
        every |= second << 2
        every |= third
        for phase in range(3):
            part = every[phase::3]
            codons[phase, : len(part)] = part
    return codons


def _without_stops(codons: bytes, place: Int, number: Int) -> Bool:
    """Tell which of the frames [W, 6], `number` codons from `place` on each, have no stop in them.

    All stops are found at once, and the next one of each frame is looked up: far fewer steps than
    a look at every codon of every frame, which lie over each other.
    """
    either = np.flatnonzero(np.frombuffer(codons.translate(_STOPS), np.bool_))
    codon = np.frombuffer(codons, np.uint8)[either]
    found = np.empty(place.shape, np.bool_)
    for strand, table in ((slice(0, 3), _FORWARD), (slice(3, 6), _REVERSE)):
        is_stop = np.frombuffer(table, np.uint8) == ord("*")
        stops = np.append(either[is_stop[codon]], len(codons))
        next_stop = stops[np.searchsorted(stops, place[:, strand])]
        found[:, strand] = next_stop >= place[:, strand] + number[:, strand]
    return found


def _sequences(bases: bytes, codons: bytes, rows: Int) -> list[tuple[bytes, bytes]]:
    """Return (nucleotides, protein) of frames given as columns frame, place, number, start, end."""
    sequences = []
    for frame, place, number, start, end in rows.T.tolist():
        strand, translated = bases[start:end], codons[place : place + number]
        if frame < 3:
            protein = translated.translate(_FORWARD, _UNKNOWN_CODONS)
        else:
            protein = translated[::-1].translate(_REVERSE, _UNKNOWN_CODONS)
            strand = strand.translate(_COMPLEMENT)[::-1]
            frame -= 3
        # The one base more than the codons have is upstream's: see the module's docstring.
        sequences.append((strand[frame : frame + 3 * len(protein) + 1], protein))
    return sequences
