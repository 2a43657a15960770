"""Chunk folders: byte-equal to the original, independent of block sizes, nothing left out."""

import gzip
from pathlib import Path

import pytest
from Bio.Seq import Seq
from chunk_folders import (
    SOURCE,
    UPSTREAM,
    VANILLA,
    chunk_it,
    contents,
    contigs_of,
    fasta_pairs,
    frames_of,
    manifest_of,
    read_all,
    sequences,
    windows_of,
    write_fasta,
)

from virnuc_rules.chunking import writer as chunks
from virnuc_rules.chunking.format import CONTIG_SCHEMA, WINDOW_SCHEMA, window_ids

# --- parity with the original ------------------------------------------------------------------


@pytest.mark.parametrize("window", [300, 500])
def test_the_files_of_the_original_byte_for_byte(tmp_path: Path, window: int) -> None:
    chunk_it(SOURCE, tmp_path / "out", window, upstream_fasta=tmp_path / "fasta")
    written = contents(tmp_path / "fasta")
    assert written == {
        f"chunked{window}.fa": (UPSTREAM / f"chunked{window}.fa").read_bytes(),
        "nucleotide.fa": (UPSTREAM / f"orf{window}_nucleotide.fa").read_bytes(),
        "protein.faa": (UPSTREAM / f"orf{window}_protein.faa").read_bytes(),
    }


def test_the_files_of_a_real_run_of_the_original(tmp_path: Path) -> None:
    source = VANILLA / "test_with_orfs.fa"
    chunk_it(source, tmp_path / "out", 500, upstream_fasta=tmp_path / "fasta")
    written = contents(tmp_path / "fasta")
    for name in ("nucleotide.fa", "protein.faa"):
        expected = (VANILLA / f"test_with_orfs_identified_{name}").read_bytes()
        assert written[name] == expected


@pytest.mark.parametrize("block", [1, 1000])
def test_the_files_of_the_original_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(chunks, "_BLOCK", block)
    chunk_it(SOURCE, tmp_path / "out", upstream_fasta=tmp_path / "fasta")
    assert (tmp_path / "fasta/chunked300.fa").read_bytes() == (
        UPSTREAM / "chunked300.fa"
    ).read_bytes()


# --- the same result, however it is computed ---------------------------------------------------


@pytest.mark.parametrize("window", [300, 500])
@pytest.mark.parametrize("chunk_size", [1, 7, 100, 10_000])
def test_chunks_hold_the_frames_of_the_original(
    tmp_path: Path, window: int, chunk_size: int
) -> None:
    manifest = chunk_it(SOURCE, tmp_path / "out", window, chunk_size)
    nucleotides, proteins = sequences(tmp_path / "out")
    assert nucleotides == fasta_pairs(UPSTREAM / f"orf{window}_nucleotide.fa")
    assert proteins == fasta_pairs(UPSTREAM / f"orf{window}_protein.faa")
    sizes = [entry.open_frames for entry in manifest.chunks]
    assert all(size == chunk_size for size in sizes[:-1])
    assert 0 < sizes[-1] <= chunk_size
    assert sum(sizes) == len(proteins)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chunk folder made with the block sizes of the library."""
    folder = tmp_path_factory.mktemp("usual") / "out"
    chunk_it(SOURCE, folder)
    return folder


@pytest.mark.parametrize("block", [1, 299, 300, 301, 1000, 4567])
@pytest.mark.parametrize(("read_block", "spill"), [(1 << 20, 1 << 25), (13, 1 << 25), (100, 50)])
def test_results_do_not_depend_on_blocks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    usual: Path,
    block: int,
    read_block: int,
    spill: int,
) -> None:
    monkeypatch.setattr(chunks, "_BLOCK", block)
    monkeypatch.setattr(chunks, "_WINDOW_BLOCKS", 3)
    monkeypatch.setattr("virnuc_rules.reading.fastx._BLOCK", read_block)
    monkeypatch.setattr("virnuc_rules.reading.fastx._SPILL", spill)
    out = tmp_path / "out"
    assert chunk_it(SOURCE, out) == manifest_of(usual)  # the hashes of the chunks among it
    assert frames_of(out).to_pylist() == frames_of(usual).to_pylist()
    assert windows_of(out).to_pylist() == windows_of(usual).to_pylist()
    assert contigs_of(out).to_pylist() == contigs_of(usual).to_pylist()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for run in "ab":
        chunk_it(SOURCE, tmp_path / run, upstream_fasta=tmp_path / f"fasta_{run}")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "fasta_a") == contents(tmp_path / "fasta_b")


def test_a_rerun_replaces_the_folder(tmp_path: Path) -> None:
    chunk_it(SOURCE, tmp_path / "out", chunk_size=1)
    chunk_it(SOURCE, tmp_path / "out", chunk_size=100)
    chunk_it(SOURCE, tmp_path / "fresh", chunk_size=100)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fresh"}


def test_gzip_gives_the_same_frames(tmp_path: Path, usual: Path) -> None:
    packed = tmp_path / "input.fa.gz"
    packed.write_bytes(gzip.compress(SOURCE.read_bytes()))
    assert chunk_it(packed, tmp_path / "out").chunks == manifest_of(usual).chunks


# --- nothing disappears ------------------------------------------------------------------------


@pytest.mark.parametrize("window", [300, 500])
def test_every_window_is_in_the_table(tmp_path: Path, window: int) -> None:
    manifest = chunk_it(SOURCE, tmp_path / "out", window)
    table = windows_of(tmp_path / "out")
    expected = fasta_pairs(UPSTREAM / f"chunked{window}.fa")
    bases = dict(fasta_pairs(SOURCE))
    assert table.schema == WINDOW_SCHEMA
    assert window_ids(table).to_pylist() == [name for name, _ in expected]
    for row, (_, window_bases) in zip(table.to_pylist(), expected, strict=True):
        assert bases[row["contig"]][row["start"] : row["end"]] == window_bases
    assert (manifest.contigs, manifest.windows) == (len(bases), len(expected))
    assert manifest.bases == sum(map(len, bases.values()))
    contigs = contigs_of(tmp_path / "out")
    assert contigs.schema == CONTIG_SCHEMA
    rows = [(number, name, len(text), 0) for number, (name, text) in enumerate(bases.items())]
    assert [tuple(row.values())[:4] for row in contigs.to_pylist()] == rows
    names = contigs["contig"].to_pylist()
    assert [names[n] for n in table["contig_index"].to_pylist()] == table["contig"].to_pylist()


def test_rows_in_are_rows_out(usual: Path) -> None:
    manifest, table, frames = manifest_of(usual), windows_of(usual), frames_of(usual)
    assert table.num_rows == manifest.windows
    assert sum(table["open_frames"].to_pylist()) == manifest.open_frames == frames.num_rows
    assert sum(entry.open_frames for entry in manifest.chunks) == manifest.open_frames
    per_window = [0] * table.num_rows
    for row in frames["window_row"].to_pylist():
        per_window[row] += 1
    assert table["open_frames"].to_pylist() == per_window
    without = [many == 0 for many in per_window]
    assert [reason is not None for reason in table["reason"].to_pylist()] == without
    assert sum(manifest.reasons.values()) == sum(without)


def test_reasons_are_counted(tmp_path: Path) -> None:
    stops = "TAACTAACTAACTTAGTTAGTTAG"
    records = {"s": stops, "t": "AC", "n": "N" * 30, "ok": "ACG", "t2": "A", "mixed": stops * 30}
    source = write_fasta(tmp_path / "in.fa", records)
    manifest = chunk_it(source, tmp_path / "out")
    table = windows_of(tmp_path / "out").to_pylist()
    reasons = {(row["contig"], row["window"]): row["reason"] for row in table}
    assert reasons == {
        ("s", 1): "no_open_frame",
        ("t", 1): "too_short",
        ("n", 1): "ambiguous",
        ("ok", 1): None,
        ("t2", 1): "too_short",
        **{("mixed", number): "no_open_frame" for number in (1, 2, 3)},
    }
    assert manifest.reasons == {"no_open_frame": 4, "too_short": 2, "ambiguous": 1}


def test_frames_join_their_windows_and_contigs(tmp_path: Path) -> None:
    """`window_row`, and the codons at `start` to `end` of the contig, give the protein."""
    chunk_it(SOURCE, tmp_path / "out", chunk_size=7)
    bases = dict(fasta_pairs(SOURCE))
    table = windows_of(tmp_path / "out").to_pylist()
    for frame in frames_of(tmp_path / "out").to_pylist():
        window = table[frame["window_row"]]
        assert (frame["contig"], frame["window"]) == (window["contig"], window["window"])
        assert window["start"] <= frame["start"] < frame["end"] <= window["end"]
        codons = bases[frame["contig"]][frame["start"] : frame["end"]].upper()
        if set(codons) <= set("ACGT"):
            strand = Seq(codons) if frame["frame"][0] == "F" else Seq(codons).reverse_complement()
            assert str(strand.translate()) == frame["protein"]


def test_the_counts_of_a_chunk_are_those_of_its_sequences(usual: Path) -> None:
    manifest = manifest_of(usual)
    assert len(manifest.chunks) > 2
    for entry, chunk in zip(manifest.chunks, read_all(usual), strict=True):
        assert entry.open_frames == len(chunk.ids) == len(set(chunk.ids)) == chunk.table.num_rows
        assert entry.nucleotides == sum(map(len, chunk.nucleotide))
        assert entry.residues == sum(map(len, chunk.protein))


def test_odd_ids_are_carried_as_they_are(tmp_path: Path) -> None:
    names = ["gi|1|x|", "a,b", "a", "a_chunk_1", "a_chunk_1F1", "<script>", "病毒", '"q"']
    source = write_fasta(tmp_path / "in.fa", dict.fromkeys(names, "ATGGCCAAG"))
    chunk_it(source, tmp_path / "out", chunk_size=5, upstream_fasta=tmp_path / "fasta")
    found = list(dict.fromkeys(frames_of(tmp_path / "out")["contig"].to_pylist()))
    assert found == names
    ids = [name for chunk in read_all(tmp_path / "out") for name in chunk.ids]
    assert len(set(ids)) == len(ids)
    assert ids == [name for name, _ in fasta_pairs(tmp_path / "fasta/protein.faa")]


def test_no_open_frames_give_no_chunk_files(tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "in.fa", {"a": "N" * 1000, "b": "AC"})
    manifest = chunk_it(source, tmp_path / "out")
    assert (manifest.chunks, manifest.open_frames, manifest.windows) == ([], 0, 5)
    tables = {"contigs.parquet", "windows.parquet", "bases.parquet"}
    assert set(contents(tmp_path / "out")) == {"manifest.json", *tables}
    assert manifest_of(tmp_path / "out") == manifest
    assert windows_of(tmp_path / "out")["reason"].to_pylist() == ["ambiguous"] * 4 + ["too_short"]
