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

from virnuc_rules.windows import Int

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
# Why a window has no open frame; "" where it has one. Indices into this are stored, not texts.
REASONS = ("", "no_open_frame", "too_short", "ambiguous")

_STOP = ord("*")
_NOT_ACGT = 64  # the codon numbers are 0..63
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def _tables() -> tuple[bytes, bytes, bytes]:
    """Byte tables: base -> 0..3 (else 255), codon -> amino acid, codon -> that of its complement.

    The code is NCBI's table 1, the standard code, as upstream's.
    """
    standard = CodonTable.unambiguous_dna_by_id[1]
    code = {**standard.forward_table, **dict.fromkeys(standard.stop_codons, "*")}
    base = bytearray([255]) * 256
    for number, letter in enumerate(b"ACGT"):
        base[letter] = number
    forward, reverse = bytearray(256), bytearray(256)
    for number in range(64):
        codon = "".join("ACGT"[number >> shift & 3] for shift in (4, 2, 0))
        forward[number] = ord(code[codon])
        reverse[number] = ord(code[codon.encode().translate(_COMPLEMENT)[::-1].decode()])
    return bytes(base), bytes(forward), bytes(reverse)


_BASE, _FORWARD, _REVERSE = _tables()


@dataclass(frozen=True, slots=True)
class OpenFrames:
    """R open frames of W windows, in the order window, then F1 F2 F3 R1 R2 R3."""

    window: Int  # [R] row of the window
    frame: NDArray[np.int8]  # [R] index into FRAMES
    start: Int  # [R] first base of the codons in the buffer, 0-based, on the forward strand
    end: Int  # [R] base after the last codon
    nucleotide: list[bytes]  # [R] upper case, read along the frame's strand
    protein: list[bytes]  # [R]
    reason: NDArray[np.int8]  # [W] index into REASONS


def open_frames(bases: bytes, start: Int, end: Int) -> OpenFrames:
    """Find the open frames of the windows `bases[start[i]:end[i]]`.

    bases: upper-case letters; a window may lie anywhere in them, and windows may overlap.
    """
    forward, reverse, stride = _translate(bases)
    size = end - start
    offset = np.arange(3)
    codons = np.maximum(size[:, None] - offset, 0) // 3  # [W, 3], the same on both strands
    low = np.concatenate(
        [start[:, None] + offset, end[:, None] - offset - 3 * codons], axis=1
    )  # [W, 6] the leftmost base of the frame's codons
    codons = np.concatenate([codons, codons], axis=1)
    # Place of the frame's leftmost codon in the phase-major translations (see _translate).
    place = np.where(codons > 0, low % 3 * stride + low // 3, 0)
    stop_free = codons > 0
    for strand, translation in ((slice(0, 3), forward), (slice(3, 6), reverse)):
        stops = np.flatnonzero(np.frombuffer(translation, np.uint8) == _STOP)
        first = place[:, strand]
        stop_free[:, strand] &= np.searchsorted(stops, first) == np.searchsorted(
            stops, first + codons[:, strand]
        )
    return _collect(bases, start, end, low, codons, place, stop_free, forward, reverse)


def _translate(bases: bytes) -> tuple[bytes, bytes, int]:
    """Translate at every base, both strands, phase-major.

    The codon that begins at base i stands at `i % 3 * stride + i // 3`, so the codons of a frame
    lie side by side and a protein is a slice. Returns (forward, reverse, stride).
    """
    number = np.frombuffer(bases.translate(_BASE), np.uint8)
    stride = len(number) // 3 + 1
    codon = np.full((3, stride), _NOT_ACGT, np.uint8)
    if len(number) >= 3:
        first, second, third = number[:-2], number[1:-1], number[2:]
        every = (first << 4) | (second << 2) | third
        every[(first | second | third) > 3] = _NOT_ACGT
        for phase in range(3):
            part = every[phase::3]
            codon[phase, : len(part)] = part
    flat = codon.tobytes()
    return flat.translate(_FORWARD), flat.translate(_REVERSE), stride


def _collect(
    bases: bytes,
    start: Int,
    end: Int,
    low: Int,
    codons: Int,
    place: Int,
    stop_free: NDArray[np.bool_],
    forward: bytes,
    reverse: bytes,
) -> OpenFrames:
    """Cut the sequences of the stop-free frames, drop the empty ones, give reasons to the rest."""
    window, frame = np.nonzero(stop_free)
    backward = bases.translate(_COMPLEMENT)[::-1]
    total = len(bases)
    keep: list[int] = []
    nucleotide: list[bytes] = []
    protein: list[bytes] = []
    rows = zip(
        frame.tolist(),
        place[window, frame].tolist(),
        codons[window, frame].tolist(),
        start[window].tolist(),
        end[window].tolist(),
        strict=True,
    )
    for row, (f, at, n, left, right) in enumerate(rows):
        if f < 3:
            strand, begin, limit = bases, left + f, right
            residues = forward[at : at + n]
        else:
            strand, begin, limit = backward, total - right + f - 3, total - left
            residues = reverse[at : at + n][::-1]
        residues = residues.replace(b"\0", b"")
        if residues:
            keep.append(row)
            protein.append(residues)
            # The one extra base is upstream's: see the module's docstring.
            nucleotide.append(strand[begin : min(begin + 3 * len(residues) + 1, limit)])

    reason = np.full(len(start), REASONS.index("no_open_frame"), np.int8)
    reason[stop_free.any(axis=1)] = REASONS.index("ambiguous")  # no stop, but no known codon
    reason[end - start < 3] = REASONS.index("too_short")
    window, frame = window[keep], frame[keep]
    reason[window] = REASONS.index("")
    left = low[window, frame]
    return OpenFrames(
        window,
        frame.astype(np.int8),
        left,
        left + 3 * codons[window, frame],
        nucleotide,
        protein,
        reason,
    )
