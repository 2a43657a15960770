"""Tracks as htslib reads them (the library behind samtools and tabix), and viral contigs."""

import gzip
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest
from chunk_folders import manifest_of
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import ChunkFolder, SampleFolder
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.regions import viral_regions
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.prediction.tracks import Tracks, exclusive, seqids
from virnuc_rules.prediction.viral_fasta import write_viral
from virnuc_rules.reading.fastx import IUPAC as _IUPAC
from virnuc_rules.vocabulary import NO_REASON, Reason

ODD = ["#a|b,\"x'", "ß_chunk_1", "<script>", "50%;=&~", "track", "browser_1"]


def windows_of(lengths: list[int], window: int, calls: str) -> WindowCalls:
    """The windows of contigs as they are cut; `calls` has v, o or n for each window."""
    sizes = np.array(lengths)
    total = np.array([count(length, window) for length in lengths])
    windows = cut(sizes, np.zeros_like(sizes), total, window)
    letters = np.array(list(calls))
    assert len(letters) == len(windows)
    score = np.linspace(0.5, 1, len(letters), dtype=np.float32)
    reason = np.where(letters == "n", Reason.NO_OPEN_FRAME.code, NO_REASON).astype(np.int8)
    return WindowCalls(
        len(lengths),
        windows.contig,
        windows.start,
        windows.end,
        score,
        reason,
        letters == "v",
        np.where(letters == "n", np.float32(np.nan), score),
        np.select([letters == "v", letters == "o"], [20.0, -20.0]),
    )


# --- bedGraph ----------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=5), window=st.integers(3, 600))
def test_every_base_is_in_one_part(lengths: list[int], window: int) -> None:
    calls = "v" * sum(count(length, window) for length in lengths)
    windows = windows_of(lengths, window, calls)
    start, end = exclusive(windows)
    for number, length in enumerate(lengths):
        mine = windows.index == number
        left, right = start[mine], end[mine]
        if not length:
            assert not len(left)
            continue
        assert (left[0], right[-1]) == (0, length)
        assert np.array_equal(left[1:], right[:-1])
        assert np.all(left < right)
        overlap = windows.end[mine][:-1] + windows.start[mine][1:]
        assert np.array_equal(right[:-1], overlap // 2)  # cut in its middle
        assert np.all((windows.start[mine] <= left) & (right <= windows.end[mine]))


def write_tracks(folder: Path, ids: list[str], windows: WindowCalls) -> Path:
    with Tracks(SampleFolder(folder, "lake")) as tracks:
        tracks.add(pa.array(ids), windows, windows.score, viral_regions(windows, 0.5))
    return folder / "tracks"


def text_of(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def fetch(path: Path, preset: str) -> list[Any]:
    """Index a sorted file as genome browsers do, and read it contig by contig."""
    parser = {"bed": pysam.asBed(), "gff": pysam.asGFF3()}[preset]
    plain = path.with_suffix(".plain")
    plain.write_text(text_of(path))
    indexed = pysam.tabix_index(str(plain), preset=preset, force=True)
    with pysam.TabixFile(indexed, encoding="utf-8") as table:
        return [row for contig in table.contigs for row in table.fetch(contig, parser=parser)]


LENGTHS, CALLS = [1234, 400, 2000, 900, 30, 1500], "vvonvnvovvvono"


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    return write_tracks(tmp_path, ODD, windows_of(LENGTHS, 500, CALLS))


def test_scores_as_bedgraph(tracks: Path) -> None:
    path = tracks / "lake.scores.bedgraph.gz"
    rows = [line.split("\t") for line in text_of(path).splitlines()]
    found = fetch(path, "bed")
    assert [(row.contig, row.start, row.end) for row in found] == [
        (name, int(start), int(end)) for name, start, end, _ in rows
    ]
    windows = windows_of(LENGTHS, 500, CALLS)
    start, end = exclusive(windows)
    called = np.flatnonzero(windows.called)
    assert [(unquote(row.contig), row.start, row.end) for row in found] == [
        (ODD[windows.index[k]], start[k], end[k]) for k in called
    ]
    assert [np.float32(row[3]) for row in rows] == windows.score[called].tolist()


def test_viral_regions_as_bed_and_gff3(tracks: Path) -> None:
    windows = windows_of(LENGTHS, 500, CALLS)
    regions = viral_regions(windows, 0.5)
    expected = [
        (ODD[index], start, end, round(1000 * float(score)))
        for index, start, end, score in zip(
            regions.index, regions.start, regions.end, regions.posterior, strict=True
        )
    ]
    assert len(expected) == 4
    bed = fetch(tracks / "lake.viral.bed", "bed")
    found = [(unquote(row.contig), row.start, row.end, round(float(row.score))) for row in bed]
    assert found == expected
    names = [f"viral_region_{number}" for number in range(1, 5)]
    assert [row.name for row in bed] == names
    assert {row.strand for row in bed} == {"."}

    gff = fetch(tracks / "lake.viral.gff3", "gff")
    assert [
        (unquote(row.contig), row.start, row.end, round(1000 * float(row.score))) for row in gff
    ] == expected
    assert {(row.source, row.feature) for row in gff} == {("VirNuc", "viral_sequence")}
    rows = text_of(tracks / "lake.viral.gff3").splitlines()[1:]  # pysam reads 0.9 as 0 here
    attributes = [dict(a.split("=") for a in row.split("\t")[8].split(";")) for row in rows]
    assert [each["ID"] for each in attributes] == names
    assert [int(each["windows"]) for each in attributes] == regions.windows.tolist()
    evidence = [np.float32(each["evidence"]) for each in attributes]
    assert evidence == regions.evidence.tolist()


def test_gff3_counts_from_1(tracks: Path) -> None:
    first = (tracks / "lake.viral.gff3").read_text().splitlines()[:2]
    assert first[0] == "##gff-version 3"
    assert first[1].split("\t")[3:5] == ["1", "911"]


@given(name=st.text(min_size=1))
def test_names_in_gff3_have_only_the_letters_of_its_specification(name: str) -> None:
    (escaped,) = seqids(pa.array([name])).to_pylist()
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:^*$@!+_?-|%")
    assert set(escaped) <= allowed
    assert unquote(escaped) == name


def test_regions_are_numbered_through(tmp_path: Path) -> None:
    windows = windows_of([400], 500, "v")
    with Tracks(SampleFolder(tmp_path, "s")) as tracks:
        for name in "abc":
            tracks.add(pa.array([name]), windows, windows.score, viral_regions(windows, 0.5))
    rows = (tmp_path / "tracks/s.viral.bed").read_text().splitlines()
    assert [row.split("\t")[3] for row in rows] == [f"viral_region_{n}" for n in (1, 2, 3)]


def test_gzip_files_have_no_time_and_no_name(tmp_path: Path) -> None:
    with Gzip(tmp_path / "x.gz") as out:
        out.write(b"abc" * 1000)
    written = (tmp_path / "x.gz").read_bytes()
    assert written[:4] == b"\x1f\x8b\x08\x00" and written[4:8] == bytes(4)
    assert gzip.decompress(written) == b"abc" * 1000


# --- viral contigs -----------------------------------------------------------------------------

IUPAC = _IUPAC.decode()
BASES = {"a|1": "ACGTN" * 200, "b": "acgtRY" * 40, "c%": "T" * 61}


def viral(
    folder: Path, *sources: Path, virus: str = "v-v", regions: list[dict[str, Any]] | None = None
) -> Path:
    """Chunk files, make a table of contigs which calls those with a v virus, and write these."""
    write_chunks(
        sources,
        folder / "chunks",
        sample="lake",
        chunking=Chunking(window=500, chunk_size=10, duplicate_ids="keep"),
    )
    chunked = pq.read_table(folder / "chunks/contigs.parquet").to_pylist()
    names = SCHEMAS["contigs"].names
    rows = []
    for row, letter in zip(chunked, virus, strict=True):
        values = dict.fromkeys(names, 0) | row | {"terminal_repeat": None}
        values |= {"windows": 4, "viral_windows": 3, "probability": 0.98765}
        values |= {"call": "virus" if letter == "v" else "non_viral", "reason": None}
        rows.append({name: values[name] for name in names})
    pq.write_table(pa.Table.from_pylist(rows, SCHEMAS["contigs"]), folder / "contigs.parquet")
    table = pa.Table.from_pylist(regions or [], SCHEMAS["regions"])
    pq.write_table(table, folder / "regions.parquet")
    for source in sources:
        source.unlink()  # what is written is what was chunked
    sample = SampleFolder(folder, "lake")
    write_viral(sample, ChunkFolder(folder / "chunks"), manifest_of(folder / "chunks").bases)
    return sample.viral_fasta


def fasta(path: Path, names: dict[str, str] = BASES) -> Path:
    path.write_text("".join(f">{name} of a lake\n{bases}\n" for name, bases in names.items()))
    return path


def test_viral_contigs_are_whole_and_as_they_came(tmp_path: Path) -> None:
    path = viral(tmp_path, fasta(tmp_path / "a.fa"))
    with pysam.FastxFile(str(path)) as records:
        found = [(record.name, record.comment, record.sequence) for record in records]
    assert found == [
        (
            name,
            f"virus probability=0.988 windows=3/4 length={len(BASES[name])}",
            BASES[name],
        )
        for name in ("a|1", "c%")
    ]
    assert max(map(len, text_of(path).splitlines()[1:17])) == 60


def test_regions_are_parts_of_their_contigs(tmp_path: Path) -> None:
    row = {"windows": 8, "evidence": 0.75, "posterior": 0.98765}
    places = [(0, "a|1", 0, 1000), (1, "b", 59, 121), (1, "b", 130, 240), (2, "c%", 60, 61)]
    rows = [
        {"contig_index": index, "contig": contig, "start": start, "end": end, **row}
        for index, contig, start, end in places
    ]
    path = viral(tmp_path, fasta(tmp_path / "a.fa"), regions=rows).with_name("regions.fa.gz")
    with pysam.FastxFile(str(path)) as records:
        found = [(record.name, record.comment, record.sequence) for record in records]
    assert found == [
        (
            f"{contig}:{start + 1}-{end}",
            f"viral_region_{number} posterior=0.988 evidence=0.75 windows=8 length={end - start}",
            BASES[contig][start:end],
        )
        for number, (_, contig, start, end) in enumerate(places, 1)
    ]


def test_reads_of_several_files_with_one_name(tmp_path: Path) -> None:
    reads = []
    for number, bases in enumerate(("ACGT" * 30, "TTGCA" * 20)):
        path = tmp_path / f"r{number}.fq.gz"
        path.write_bytes(gzip.compress(f"@r\n{bases}\n+\n{'I' * len(bases)}\n".encode()))
        reads.append(path)
    with pysam.FastxFile(str(viral(tmp_path, *reads, virus="-v"))) as records:
        assert [(r.name, r.sequence, r.quality) for r in records] == [("r", "TTGCA" * 20, None)]


def test_a_contig_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virnuc_rules.prediction.viral_fasta._BLOCK", 60 * 7)
    bases = "ACGTTGCATA" * 250
    source = fasta(tmp_path / "a.fa", {"long": bases})
    _, *lines = text_of(viral(tmp_path, source, virus="v")).splitlines()
    assert "".join(lines) == bases
    assert {len(line) for line in lines[:-1]} == {60}


def test_no_viral_contig_is_an_empty_file(tmp_path: Path) -> None:
    assert text_of(viral(tmp_path, fasta(tmp_path / "a.fa"), virus="---")) == ""


@given(
    records=st.lists(st.text(IUPAC, max_size=150), min_size=1, max_size=6),
    block=st.integers(1, 90),
    data=st.data(),
)
def test_viral_contigs_are_the_letters_of_the_input(
    tmp_path_factory: pytest.TempPathFactory, records: list[str], block: int, data: st.DataObject
) -> None:
    """Lower case, U, N and other codes, wherever blocks and lines end."""
    names = {f"c{number}": bases for number, bases in enumerate(records)}
    virus = data.draw(st.text("v-", min_size=len(records), max_size=len(records)))
    folder = tmp_path_factory.mktemp("viral")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virnuc_rules.chunking.bases._BLOCK", block)
        patch.setattr("virnuc_rules.prediction.viral_fasta._BLOCK", 60)
        text = text_of(viral(folder, fasta(folder / "a.fa", names), virus=virus))
    assert text == "".join(
        f">{name} virus probability=0.988 windows=3/4 length={len(bases)}\n"
        + "".join(bases[at : at + 60] + "\n" for at in range(0, len(bases), 60))
        for (name, bases), letter in zip(names.items(), virus, strict=True)
        if letter == "v"
    )
