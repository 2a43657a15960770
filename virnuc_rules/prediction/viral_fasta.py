"""The viral contigs of a sample as FASTA, read again from the input files."""

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from virnuc_rules.chunking.manifest import Manifest
from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.errors import InputError
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.reading.fastx import Contig, Sequences
from virnuc_rules.vocabulary import Call

logger = logging.getLogger(__name__)

_LINE = 60  # bases
_BLOCK = _LINE << 14  # bases that are written at a time
_COLUMNS = ("contig", "length", "windows", "viral_windows", "viral_fraction", "score_viral", "call")


def write_viral(folder: SampleFolder, manifest: Manifest) -> None:
    """Write the contigs that the table of contigs in `folder` calls virus, as FASTA.

    Writes nothing for input that cannot be read twice (standard input, a pipe). Raises InputError
    where the input cannot be read or has changed since it was chunked.
    """
    sample = folder.sample
    if unreadable := [source for source in manifest.sources if not _can_be_read_again(source)]:
        name = folder.viral_fasta.name
        logger.info("sample %s: no %s: %s cannot be read again", sample, name, unreadable[0])
        return
    sources = [Path(source) for source in manifest.sources]
    sequences = Sequences(sources, sample, keep_duplicates=True)
    rows = _rows(folder.parquet("contigs"))
    # DNA has few repeats: without searching for them the file is as small, and written faster.
    with Gzip(folder.viral_fasta, strategy=zlib.Z_HUFFMAN_ONLY) as out:
        for contig in sequences.contigs():
            row = next(rows, None)
            if row is None or (row["contig"], row["length"]) != (contig.id, contig.length):
                raise _changed(sample, f'{sources[contig.source]}: record "{contig.id}"')
            if row["call"] == Call.VIRUS:
                _write(out, contig, row)
    for source, now, before in zip(sources, sequences.sha256, manifest.sources_sha256, strict=True):
        if now != before:
            raise _changed(sample, f"{source}: the file")
    if next(rows, None) is not None:
        raise _changed(sample, f"{sources[-1]}: the file")


def _changed(sample: str, what: str) -> InputError:
    return InputError(
        f"sample {sample}: {what} has changed since it was chunked; delete the sample's chunk "
        "folder and run again"
    )


def _can_be_read_again(source: str) -> bool:
    path = Path(source)
    return source != "-" and not path.is_relative_to("/dev") and not path.is_fifo()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(_COLUMNS)):
            yield from batch.to_pylist()


def _write(out: Gzip, contig: Contig, row: dict[str, Any]) -> None:
    out.write(
        f">{contig.id} virus score={row['score_viral']:.3f} fraction={row['viral_fraction']:.2f} "
        f"windows={row['viral_windows']}/{row['windows']} length={contig.length}\n".encode()
    )
    for start in range(0, contig.length, _BLOCK):
        bases = contig.bases(start, min(start + _BLOCK, contig.length))
        lines = (bases[first : first + _LINE] for first in range(0, len(bases), _LINE))
        out.write(b"\n".join(lines) + b"\n")
