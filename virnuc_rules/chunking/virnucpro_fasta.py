"""The intermediate and result files of the original VirNucPro, byte for byte."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from virnuc_rules.arrays import Int
from virnuc_rules.chunking.open_frames import OpenFrames
from virnuc_rules.files.atomic import replacing
from virnuc_rules.vocabulary import Frame

_FRAMES = list(Frame)
_WRAP = 60  # letters in a line, as Biopython's FASTA writer


class UpstreamFasta:
    """Writes `chunked<window>.fa`, `nucleotide.fa` and `protein.faa`; no files if folder is None.

    The files appear when the context ends without an error.
    """

    def __init__(self, folder: Path | None, window: int) -> None:
        self.folder = folder
        self.window = window
        self._files = contextlib.ExitStack()
        self._out: list[IO[str]] = []

    def __enter__(self) -> Self:
        if self.folder is not None:
            names = (f"chunked{self.window}.fa", "nucleotide.fa", "protein.faa")
            self._out = [self._files.enter_context(replacing(self.folder / n)) for n in names]
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)  # type: ignore[arg-type]

    def write(
        self,
        bases: bytes,
        start: Int,
        end: Int,
        window_ids: Callable[[], list[str]],
        frames: OpenFrames,
    ) -> None:
        """Write the windows `bases[start[i]:end[i]]` and their open frames."""
        if not self._out:
            return
        ids = window_ids()
        chunked, nucleotide, protein = self._out
        text = bases.decode("ascii")
        for name, left, right in zip(ids, start.tolist(), end.tolist(), strict=True):
            lines = (text[i : min(i + _WRAP, right)] for i in range(left, right, _WRAP))
            chunked.write(f">{name}\n" + "\n".join(lines) + "\n")
        rows = zip(frames.window.tolist(), frames.frame.tolist(), strict=True)
        names = [ids[window] + _FRAMES[frame] for window, frame in rows]
        for out, sequences in ((nucleotide, frames.nucleotide), (protein, frames.protein)):
            records = zip(names, sequences, strict=True)
            out.writelines(f">{name}\n{sequence.decode()}\n" for name, sequence in records)
