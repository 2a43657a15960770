"""Tracks for genome browsers: window scores as bedGraph, viral regions as BED and GFF3."""

from types import TracebackType
from typing import Self
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_rules.arrays import Int
from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.files.tsv import lines, shortest
from virnuc_rules.prediction.contig_calls import Regions, WindowCalls

_SEQID = ".:^*$@!+?-|"  # what GFF3 allows in a name, beside letters, digits and what quote keeps


class Tracks:
    """Writes the tracks of a sample into its folder, block by block."""

    def __init__(self, folder: SampleFolder) -> None:
        folder.score_track.parent.mkdir()
        self.scores = Gzip(folder.score_track)
        self.bed, self.gff = folder.bed.open("wb"), folder.gff3.open("wb")
        self.gff.write(b"##gff-version 3\n")
        self.regions = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.bed, self.gff:
            self.scores.__exit__(kind, error, trace)

    def add(self, contigs: pa.Array, windows: WindowCalls, regions: Regions) -> None:
        """Write the windows and regions of contigs with these ids."""
        start, end = exclusive(windows)
        called = windows.called
        self.scores.write(
            lines(
                contigs.take(pa.array(windows.index[called])),
                start[called],
                end[called],
                shortest(windows.score[called]),
            )
        )
        number = len(regions.index)
        if not number:
            return
        names = pc.binary_join_element_wise(
            "viral_region_", pa.array(self.regions + np.arange(1, number + 1)).cast(pa.string()), ""
        )
        self.regions += number
        ids = contigs.take(pa.array(regions.index))
        score = np.rint(regions.score_mean.astype(np.float64) * 1000).astype(np.int64)
        self.bed.write(lines(ids, regions.start, regions.end, names, score, "."))
        attributes = pc.binary_join_element_wise(
            "ID=", names, ";windows=", pa.array(regions.windows).cast(pa.string()),
            ";score_max=", shortest(regions.score_max), "",
        )  # fmt: skip
        self.gff.write(
            lines(
                seqids(ids), "VirNuc", "viral_sequence", regions.start + 1, regions.end,
                shortest(regions.score_mean), ".", ".", attributes,
            )
        )  # fmt: skip


def exclusive(windows: WindowCalls) -> tuple[Int, Int]:
    """Cut overlapping windows in the middle of the overlap: every base is in one, [W] and [W]."""
    start, end = windows.start.copy(), windows.end.copy()
    (left,) = np.nonzero(windows.index[1:] == windows.index[:-1])
    end[left] = start[left + 1] = (end[left] + start[left + 1]) // 2
    return start, end


def seqids(ids: pa.Array) -> pa.Array:
    """Escape ids as GFF3 asks for."""
    encoded = ids.dictionary_encode()
    names = [
        quote(name, safe=_SEQID).replace("~", "%7E") for name in encoded.dictionary.to_pylist()
    ]
    return pa.array(names, pa.string()).take(encoded.indices)
