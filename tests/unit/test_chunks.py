"""Chunk folders: byte-equal to the original, independent of block sizes, and safe to trust."""

import gzip
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO
from Bio.Seq import Seq

from virnuc_rules import chunks, fasta
from virnuc_rules.chunkfiles import (
    CHUNK_SCHEMA,
    WINDOW_SCHEMA,
    Chunk,
    ChunkEntry,
    Manifest,
    read_chunk,
    read_manifest,
    window_ids,
)
from virnuc_rules.chunks import write_chunks
from virnuc_rules.errors import ChunkError, InputError, VirnucError

DATA = Path(__file__).parent.parent / "data"
UPSTREAM = DATA / "upstream"
SOURCE = UPSTREAM / "input.fa"
VANILLA = DATA / "vanilla_real"


def chunk_it(
    source: Path, out: Path, window: int = 300, chunk_size: int = 100, **more: Path
) -> Manifest:
    return write_chunks(source, out, sample="lake", window=window, chunk_size=chunk_size, **more)


def read_all(folder: Path) -> list[Chunk]:
    """Every chunk of a folder, checked, in order."""
    return [read_chunk(folder / entry.file, entry) for entry in read_manifest(folder).chunks]


def sequences(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(id, nucleotides) and (id, protein) of all open frames, in order."""
    read = read_all(folder)
    return (
        [pair for chunk in read for pair in zip(chunk.ids, chunk.nucleotide, strict=True)],
        [pair for chunk in read for pair in zip(chunk.ids, chunk.protein, strict=True)],
    )


def fasta_pairs(path: Path) -> list[tuple[str, str]]:
    return [(record.id, str(record.seq)) for record in SeqIO.parse(path, "fasta")]


def windows_of(folder: Path) -> pa.Table:
    return pq.read_table(folder / "windows.parquet", page_checksum_verification=True)


def frames_of(folder: Path) -> pa.Table:
    return pa.concat_tables([CHUNK_SCHEMA.empty_table(), *(c.table for c in read_all(folder))])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    return path


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
    monkeypatch.setattr(fasta, "_BLOCK", read_block)
    monkeypatch.setattr(fasta, "_SPILL", spill)
    out = tmp_path / "out"
    assert chunk_it(SOURCE, out) == read_manifest(usual)  # the hashes of the chunks among it
    assert frames_of(out).to_pylist() == frames_of(usual).to_pylist()
    assert windows_of(out).to_pylist() == windows_of(usual).to_pylist()


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
    assert chunk_it(packed, tmp_path / "out").chunks == read_manifest(usual).chunks


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


def test_rows_in_are_rows_out(usual: Path) -> None:
    manifest, table, frames = read_manifest(usual), windows_of(usual), frames_of(usual)
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
    manifest = read_manifest(usual)
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
    assert set(contents(tmp_path / "out")) == {"manifest.json", "windows.parquet"}
    assert read_manifest(tmp_path / "out") == manifest
    assert windows_of(tmp_path / "out")["reason"].to_pylist() == ["ambiguous"] * 4 + ["too_short"]


# --- runs that end in the middle ---------------------------------------------------------------

FAILING = {
    "an illegal letter": b">bad\nAC!T\n",
    "an empty record": b">bad\n",
    "an id twice": b">same\nACGT\n>same\nACGT\n",
}


@pytest.mark.parametrize("problem", FAILING)
def test_an_error_leaves_the_older_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    out, upstream = tmp_path / "out", tmp_path / "fasta"
    chunk_it(SOURCE, out, chunk_size=7, upstream_fasta=upstream)
    before = contents(tmp_path)
    monkeypatch.setattr(chunks, "_BLOCK", 1000)  # so that chunk files are written before the error
    bad = tmp_path.parent / f"{tmp_path.name}.fa"
    bad.write_bytes(SOURCE.read_bytes() + b"\n" + FAILING[problem])
    with pytest.raises(InputError):
        chunk_it(bad, out, chunk_size=1, upstream_fasta=upstream)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fasta"}


def test_an_error_at_first_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        chunk_it(tmp_path / "absent.fa", tmp_path / "new" / "out")
    assert contents(tmp_path) == {}
    assert list((tmp_path / "new").iterdir()) == []


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the manifest: all the rest is there, and nothing is put in place."""
    chunk_it(SOURCE, tmp_path / "out")
    before = contents(tmp_path)
    seen = []

    def full(path: Path) -> None:
        seen.append(path.name)
        staged = path.parent
        names = [
            f"chunk_{n:06d}.parquet" for n in range(len(read_manifest(tmp_path / "out").chunks))
        ]
        assert sorted(p.name for p in staged.iterdir()) == [*names, "windows.parquet"]
        assert windows_of(staged).num_rows == read_manifest(tmp_path / "out").windows
        raise OSError("no space left on device")

    monkeypatch.setattr(chunks, "replacing", full)
    with pytest.raises(VirnucError, match="no space left"):
        chunk_it(SOURCE, tmp_path / "out")
    assert seen == ["manifest.json"]
    assert contents(tmp_path) == before


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from virnuc_rules import chunks
chunks.replacing = lambda path: os._exit(9)
chunks.write_chunks(Path(sys.argv[1]), Path(sys.argv[2]), sample="a", window=300, chunk_size=9)
"""
    command = [sys.executable, "-c", program, str(SOURCE), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    chunk_it(SOURCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_of_the_same_process_number_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the process number is often the same each time."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(InputError):
            chunk_it(tmp_path / "absent.fa", tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1
    chunk_it(SOURCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_samples_with_names_alike_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lake` is chunked from beginning to end while `lake.2` is under way beside it."""
    read_contigs, begun = chunks.read_contigs, []

    def interrupted(path: Path, sample: str) -> Iterator[fasta.Contig]:
        if not begun:
            begun.append(sample)
            chunk_it(SOURCE, tmp_path / "lake")
        return read_contigs(path, sample)

    monkeypatch.setattr(chunks, "read_contigs", interrupted)
    chunk_it(SOURCE, tmp_path / "lake.2")
    assert contents(tmp_path / "lake") == contents(tmp_path / "lake.2")
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "lake.2"}


# --- damage ------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, ChunkEntry]:
    """The first chunk file, of two, of a small folder, and its entry."""
    manifest = chunk_it(SOURCE, tmp_path / "out", chunk_size=40)
    return tmp_path / "out" / manifest.chunks[0].file, manifest.chunks[0]


def chunk_error(path: Path, entry: ChunkEntry) -> str:
    with pytest.raises(ChunkError) as raised:
        read_chunk(path, entry)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    assert message.endswith("; delete the sample's chunk folder and run again")
    return message


def test_a_missing_chunk_file(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    path.unlink()
    assert "no such file" in chunk_error(path, entry)


@pytest.mark.parametrize("keep", [0, 1, 4, 12, 0.1, 0.5, 0.9, -8, -4, -1])
def test_a_truncated_chunk_file(one: tuple[Path, ChunkEntry], keep: float) -> None:
    path, entry = one
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "damaged" in chunk_error(path, entry)


def test_something_else_in_place_of_a_chunk_file(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    path.write_bytes(b"PAR1 not quite PAR1")
    assert "damaged" in chunk_error(path, entry)
    path.write_bytes((path.parent / "windows.parquet").read_bytes())
    assert "not a chunk file of this version" in chunk_error(path, entry)
    path.write_bytes((path.parent / "chunk_000001.parquet").read_bytes())
    assert "the content has changed" in chunk_error(path, entry)


def is_refused(path: Path, entry: ChunkEntry, good: list[dict[str, object]]) -> bool:
    """Whether the file gives a ChunkError; it may also be read, but then as what it was."""
    try:
        chunk = read_chunk(path, entry)
    except ChunkError as error:
        assert len(str(error).splitlines()) == 1
        return True
    assert chunk.table.to_pylist() == good
    return False


@pytest.mark.parametrize("bit", [0x01, 0x10])
def test_a_flipped_bit_is_never_accepted(one: tuple[Path, ChunkEntry], bit: int) -> None:
    """Some bytes have no meaning to the reader; a flip there is harmless, and the content right."""
    path, entry = one
    whole = path.read_bytes()
    good = read_chunk(path, entry).table.to_pylist()
    places = range(4, len(whole), 50)
    refused = 0
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= bit
        path.write_bytes(bytes(broken))
        refused += is_refused(path, entry, good)
    assert refused > 0.8 * len(places)


def test_a_flipped_bit_anywhere_in_the_first_pages(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    whole = path.read_bytes()
    good = read_chunk(path, entry).table.to_pylist()
    for place in range(800):
        broken = bytearray(whole)
        broken[place] ^= 0x80
        path.write_bytes(bytes(broken))
        is_refused(path, entry, good)


def rewrite(path: Path, column: str, change: Callable[[list], list]) -> None:
    """Write the chunk file anew with one column changed, as a sound Parquet file."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    field = table.schema.field(column)
    values = pa.array(change(table[column].to_pylist())).cast(field.type)
    pq.write_table(table.set_column(place, field, values), path)


def other_first(values: list[str]) -> list[str]:
    return ["A" + values[0][1:] if values[0][0] != "A" else "C" + values[0][1:], *values[1:]]


@pytest.mark.parametrize("column", ["nucleotide", "protein"])
def test_a_changed_sequence(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, other_first)
    assert "the content has changed" in chunk_error(path, entry)


def test_a_changed_order_or_number(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    table = pq.read_table(path)
    for changed in (table.take([1, 0, *range(2, len(table))]), table.slice(1), table.slice(0, 39)):
        pq.write_table(changed, path)
        assert "the content has changed" in chunk_error(path, entry)


@pytest.mark.parametrize("column", ["window", "contig", "frame"])
def test_a_changed_id(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, lambda values: values[1:] + values[:1])
    assert "the content has changed" in chunk_error(path, entry)


@pytest.mark.parametrize("column", ["window_row", "start", "end"])
def test_a_changed_place(one: tuple[Path, ChunkEntry], column: str) -> None:
    path, entry = one
    rewrite(path, column, lambda values: [value + 1 for value in values])
    chunk_error(path, entry)


def test_the_hash_is_that_of_the_rows(one: tuple[Path, ChunkEntry]) -> None:
    """It names results, so it must not depend on the version of pyarrow."""
    path, entry = one
    chunk = read_chunk(path, entry)
    places = (chunk.table[name].to_pylist() for name in ("window_row", "start", "end"))
    rows = zip(chunk.ids, chunk.nucleotide, chunk.protein, *places, strict=True)
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == entry.sha256


def manifest_error(folder: Path) -> str:
    with pytest.raises(ChunkError) as raised:
        read_manifest(folder)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{folder / 'manifest.json'}: ")
    return message


def test_a_missing_manifest(tmp_path: Path) -> None:
    assert manifest_error(tmp_path).endswith("(No such file or directory); chunk the sample first")
    assert "No such file" in manifest_error(tmp_path / "absent")


def without_windows(text: bytes) -> bytes:
    fields = json.loads(text)
    del fields["windows"]
    return json.dumps(fields).encode()


BROKEN = {
    "empty": lambda text: b"",
    "cut in half": lambda text: text[: len(text) // 2],
    "without its last brace": lambda text: text.rstrip()[:-1],
    "not JSON": lambda text: b"sample\tpath\n",
    "another JSON": lambda text: b"[1, 2]\n",
    "not UTF-8": lambda text: text.replace(b'"version"', b'"ver\xffsion"'),
    "a field too few": without_windows,
    "a field too many": lambda text: text.replace(b"{", b'{"more": 1,', 1),
    "a text for a number": lambda text: text.replace(b'"windows": ', b'"windows": "x', 1),
    "zeros, as after a power cut": lambda text: bytes(len(text)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest(tmp_path: Path, usual: Path, how: str) -> None:
    text = (usual / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(BROKEN[how](text))
    message = manifest_error(tmp_path)
    assert "not a manifest" in message
    assert message.endswith("; delete it and run again")


def test_a_changed_hash_in_the_manifest(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    other = entry.model_copy(update={"sha256": entry.sha256[::-1]})
    assert "the content has changed" in chunk_error(path, other)


def test_a_changed_number_of_rows_in_the_manifest(one: tuple[Path, ChunkEntry]) -> None:
    path, entry = one
    chunk_error(path, entry.model_copy(update={"open_frames": entry.open_frames + 1}))


# --- memory ------------------------------------------------------------------------------------

# VmHWM, since getrusage's peak of a child begins with that of the process that started it.
MEASURE = """
import sys
from pathlib import Path
from virnuc_rules.chunks import write_chunks
made = write_chunks(Path(sys.argv[1]), Path(sys.argv[2]), sample="a", window=500, chunk_size=10_000)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(made.bases, made.open_frames, int(status["VmHWM"].split()[0]) // 1024)
"""


def gene_rich_megabases(number: int) -> Iterator[bytes]:
    """Random bases, in every second stretch of 1.5 kb without a stop in one frame."""
    rng = random.Random(1)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = [codon for codon in codons if codon not in ("TAA", "TAG", "TGA")]
    stretches = ["".join(rng.choices(sense if even else codons, k=500)) for even in (0, 1) * 50]
    for _ in range(number):
        rng.shuffle(stretches)
        yield "".join(stretches * 7)[:1_000_000].encode()


def peak_mb(folder: Path, megabases: int, wrapped: bool) -> int:
    """Chunk one contig of this length in a process of its own; its peak resident memory."""
    source = folder / "long.fa"
    with source.open("wb") as out:
        out.write(b">long\n")
        for megabase in gene_rich_megabases(megabases):
            step = 80 if wrapped else len(megabase)
            newline = b"\n" if wrapped else b""
            out.writelines(megabase[at : at + step] + newline for at in range(0, 10**6, step))
        out.write(b"\n")
    command = [sys.executable, "-c", MEASURE, str(source), str(folder / "out")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    bases, open_frames, peak = map(int, run.stdout.split())
    assert bases == megabases * 1_000_000
    assert open_frames > 900 * megabases
    return peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("wrapped", [True, False])
def test_memory_does_not_grow_with_the_contig(tmp_path: Path, wrapped: bool) -> None:
    """60 Mb in one contig, in lines or in one line: little more than 6 Mb need."""
    peak = peak_mb(tmp_path, 60, wrapped)
    assert peak < 300
    assert peak < peak_mb(tmp_path, 6, wrapped) + 60
