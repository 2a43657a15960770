"""Tracks for genome browsers: windows as bedGraph, viral regions as BED and GFF3."""

import contextlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.files.tsv import NOT_IN_GFF3, escape, escaped, lines, text
from virnuc_rules.prediction.called_windows import WindowCalls, exclusive
from virnuc_rules.prediction.regions import Regions


class Tracks(contextlib.ExitStack):
    """Writes the tracks of a sample into its folder, block by block."""

    def __init__(self, folder: SampleFolder) -> None:
        super().__init__()
        folder.score_track.parent.mkdir()
        self.scores = self.enter_context(Gzip(folder.score_track))
        self.bed = self.enter_context(folder.bed.open("wb"))
        self.gff = self.enter_context(folder.gff3.open("wb"))
        self.gff.write(b"##gff-version 3\n")
        self.regions = 0  # written so far

    def add(
        self, contigs: pa.Array, windows: WindowCalls, values: NDArray[Any], regions: Regions
    ) -> None:
        """Write the windows, with their values [W], and regions of contigs with these ids."""
        start, end = exclusive(windows)
        called = windows.called
        ids = contigs.take(pa.array(windows.index[called]))
        shown = values[called].astype(np.float32)
        self.scores.write(lines(escaped(ids), start[called], end[called], shown))
        numbers = self.regions + 1 + np.arange(len(regions.index))  # 1-based in the sample
        if not len(numbers):
            return
        self.regions += len(numbers)
        names = pc.binary_join_element_wise("viral_region_", pa.array(numbers.astype(str)), "")
        ids = contigs.take(pa.array(regions.index))
        score = np.rint(regions.posterior.astype(np.float64) * 1000).astype(np.int64)
        self.bed.write(lines(escaped(ids), regions.start, regions.end, names, score, "."))
        region_windows, evidence = text(regions.windows), text(regions.evidence)
        attributes = pc.binary_join_element_wise(
            "ID=", names, ";windows=", region_windows, ";evidence=", evidence, ""
        )
        self.gff.write(
            lines(
                seqids(ids), "VirNuc", "viral_sequence", regions.start + 1, regions.end,
                regions.posterior, ".", ".", attributes,
            )
        )  # fmt: skip


def seqids(ids: pa.Array) -> pa.Array:
    """Escape ids for the first column of GFF3."""
    encoded = ids.dictionary_encode()
    names = [escape(name, NOT_IN_GFF3) for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)
