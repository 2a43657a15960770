"""One table of the viral contigs and regions of all samples, and their bases.

Every column is described in docs/outputs.md.
"""

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_rules.arrays import Bool
from virnuc_rules.config.annotations import annotation_tables
from virnuc_rules.config.run_folder import RunFolder, SampleFolder, VirusFiles
from virnuc_rules.config.sheet import Sheet
from virnuc_rules.errors import ResultError, one_line
from virnuc_rules.files.atomic import (
    move_files,
    remove_partials,
    staged_folder,
    sync_files,
    writing,
)
from virnuc_rules.files.environment import environment_named
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.files.tsv import escape
from virnuc_rules.prediction.table import Table
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.report.annotations import COUNTS, Annotation
from virnuc_rules.report.data import find_samples, unmatched
from virnuc_rules.report.parquet import batches
from virnuc_rules.vocabulary import Call

logger = logging.getLogger(__name__)

_OF_CONTIG = (
    "contig_index", "contig", "length", "call", "probability", "margin", "terminal_repeat",
)  # fmt: skip
_OF_REGION = ("start", "end", "windows", "evidence", "posterior")
SCHEMA = pa.schema(
    [
        ("sample", pa.string()),
        *(SCHEMAS["contigs"].field(name) for name in _OF_CONTIG),
        ("region", pa.int64()),
        *(SCHEMAS["regions"].field(name) for name in _OF_REGION),
        ("sequence", pa.string()),
    ]
)
_BLOCK = 1 << 20  # bytes of a FASTA file that are read at a time


def write_viruses(results: Path, sheet: Sheet) -> int:
    """Write the viral contigs and regions of all samples; return how many there are.

    Samples without tables are left out and named in the log. Raises ResultError where none has
    tables or one is damaged, VirnucError for a table of annotations that cannot be read. After an
    error older files are unchanged.
    """
    run, tables = RunFolder(results), annotation_tables(sheet)
    samples, missing = find_samples(run, list(sheet.samples), {})
    for name, reason in missing.items():
        logger.warning("sample %s is left out: %s", name, reason)
    if not samples:
        raise ResultError(f"{results}: no sample has tables: {next(iter(missing.values()))}")
    annotations = {
        sample.name: [
            Annotation(kind, paths, sample.name, sheet.samples, _sequences(sample.folder))
            for kind, paths in tables[sample.name].items()
        ]
        for sample in samples
    }
    files = run.viruses
    with writing(files.tsv), staged_folder(files.tsv) as folder:
        stage = VirusFiles(folder)
        with _Viruses(stage, [*chain(*annotations.values())]) as viruses:
            for sample in samples:
                viruses.add(sample.folder, annotations[sample.name])
            viruses.table.finish()
        sync_files(stage.files())
        remove_partials(files.tsv.resolve(), own=folder)
        move_files(dict(zip(stage.files(), files.files(), strict=True)))
    return viruses.rows


class _Viruses(ExitStack):
    """The files that `write_viruses` writes, open."""

    def __init__(self, files: VirusFiles, annotations: list[Annotation]) -> None:
        super().__init__()
        columns = dict.fromkeys(column for each in annotations for column in each.columns)
        schema = pa.schema([*SCHEMA, *((name, pa.string()) for name in columns)])
        self.table = self.enter_context(Table(files.tsv, files.parquet, schema))
        # As viral.fa.gz: DNA has few repeats.
        self.fasta = self.enter_context(Gzip(files.fasta, strategy=zlib.Z_HUFFMAN_ONLY))
        self.counts = self.enter_context(files.annotations.open("w", encoding="utf-8"))
        self.counts.write("\t".join(("sample", "annotations", "paths", *COUNTS)) + "\n")
        self.rows = 0

    def add(self, folder: SampleFolder, annotations: list[Annotation]) -> None:
        """Add the viral contigs and regions of a sample, and what is known of them."""
        whole, of_viral = 0, [np.zeros(0, np.bool_)]  # each region: if its contig is called virus
        for rows in _viral_rows(folder):
            keys = rows["contig"].to_pylist(), rows["name"].to_pylist()
            known = pd.concat([pd.DataFrame(), *(each.of(*keys) for each in annotations)], axis=1)
            none = pa.nulls(rows.num_rows, pa.string())
            more = {
                name: pa.array(known[name], pa.string(), from_pandas=True)
                if name in known
                else none
                for name in self.table.schema.names[len(SCHEMA) :]
            }
            self.table.add({**dict(zip(rows.column_names, rows.columns, strict=True)), **more})
            self.rows += rows.num_rows
            is_region = pc.is_valid(rows["region"])
            of_viral.append(pc.equal(rows["call"], Call.VIRUS).filter(is_region).to_numpy())
            whole += rows.num_rows - len(of_viral[-1])
        is_copied = np.ones(whole, np.bool_), ~np.concatenate(of_viral)
        for path, which in zip((folder.viral_fasta, folder.region_fasta), is_copied, strict=True):
            for block in _copied(path, folder.sample, which):
                self.fasta.write(block)
        for each in annotations:
            counts, paths = each.counts(), " ".join(map(str, each.paths))
            cells = (folder.sample, each.name, paths, *map(str, counts.values()))
            self.counts.write("\t".join(map(escape, cells)) + "\n")
            if each.unmatched:
                text = unmatched(each.unmatched, each.rows, paths)
                logger.warning("sample %s: %s", folder.sample, text)


def _copied(path: Path, sample: str, is_copied: Bool) -> Iterator[bytes]:
    """Yield the records [N] of a FASTA file that are copied, with the sample before their ids.

    Raises ResultError where the file is damaged, or has not N records.
    """
    prefix, index, copy = f">{sample}|".encode(), -1, True
    try:
        with environment_named(path), gzip.open(path) as handle:
            while lines := handle.readlines(_BLOCK):
                for at, line in enumerate(lines):
                    if line.startswith(b">"):
                        index += 1
                        copy = bool(is_copied[index : index + 1].any())
                        lines[at] = prefix + line[1:]
                    if not copy:
                        lines[at] = b""
                yield b"".join(lines)
    except (OSError, EOFError, zlib.error) as error:
        raise ResultError(f"{path}: damaged ({one_line(error)}); run `predict` again") from None
    if index + 1 != len(is_copied):
        count = f"{index + 1} of {len(is_copied)} sequences"
        raise ResultError(f"{path}: {count}; run `predict` again")


def _sequences(folder: SampleFolder) -> Iterator[str]:
    """Yield the ids of all contigs of a sample and the names of all regions."""
    for batch in batches(folder.parquet("contigs"), "contig"):
        yield from batch["contig"].to_pylist()
    for batch in batches(folder.parquet("regions"), "contig", "start", "end"):
        yield from _region_names(batch["contig"], batch["start"], batch["end"]).to_pylist()


def _region_names(contig: pa.Array, start: pa.Array, end: pa.Array) -> pa.Array:
    """Return the names of regions as in regions.fa.gz: 1-based, with the last base."""
    first, last = pc.add(start, 1).cast(pa.string()), end.cast(pa.string())
    return pc.binary_join_element_wise(pc.binary_join_element_wise(contig, first, ":"), last, "-")


def _viral_rows(folder: SampleFolder) -> Iterator[pa.Table]:
    """Yield the viral contigs of a sample, each before its regions, and regions of other contigs.

    Columns: those of SCHEMA, and `name`, of a region in regions.fa.gz.
    """
    regions = pa.Table.from_batches(
        list(batches(folder.parquet("regions"), "contig_index", *_OF_REGION)),
        pa.schema([SCHEMAS["regions"].field(name) for name in ("contig_index", *_OF_REGION)]),
    )
    of_contig, begin = regions["contig_index"].to_numpy(), 0
    for contigs in batches(folder.parquet("contigs"), *_OF_CONTIG, "windows", "called_windows"):
        index = contigs["contig_index"].to_numpy()
        end = int(np.searchsorted(of_contig, index[-1], "right"))
        (viral,) = np.nonzero(pc.equal(contigs["call"], Call.VIRUS).to_numpy(zero_copy_only=False))
        row = np.r_[viral, of_contig[begin:end] - index[0]]  # of the contig
        number = np.r_[np.zeros(len(viral), np.int64), np.arange(begin, end) + 1]
        order = np.lexsort((number, row))
        whole = contigs.take(pa.array(viral))
        called, windows = (whole[n].cast(pa.float32()) for n in ("called_windows", "windows"))
        of_whole = {
            "start": pa.array(np.zeros(len(viral), np.int64)), "end": whole["length"],
            "windows": whole["windows"], "evidence": pc.divide(called, windows),
            "posterior": pa.nulls(len(viral), pa.float32()),
        }  # fmt: skip
        part = regions.slice(begin, end - begin)
        columns = contigs.select(_OF_CONTIG).take(pa.array(row[order]))
        rows = pa.Table.from_batches([columns])
        for name in _OF_REGION:
            both = pa.chunked_array([of_whole[name], *part[name].chunks])
            rows = rows.append_column(name, both.take(pa.array(order)))
        region = pa.array(number[order], mask=number[order] == 0)
        names = _region_names(rows["contig"], rows["start"], rows["end"])
        names = pc.if_else(region.is_valid(), names, None)
        own = pc.if_else(pc.equal(rows["call"], Call.VIRUS), rows["contig"], names)
        rows = rows.append_column("region", region).append_column("name", names)
        sample = pa.array([folder.sample] * rows.num_rows, pa.string())
        rows = rows.append_column("sample", sample)
        yield rows.append_column("sequence", pc.binary_join_element_wise(sample, own, "|"))
        begin = end
