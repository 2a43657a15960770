"""Chunking what people have: several files, equal ids, RNA, unknown letters."""

import hashlib
import random
from pathlib import Path

import pytest
from chunk_folders import (
    SOURCE,
    chunk_it,
    contigs_of,
    fasta_pairs,
    frames_of,
    read_all,
    windows_of,
    write_fasta,
)
from packing import PACK

from virnuc_rules.errors import InputError


def test_several_files_are_one_sample(tmp_path: Path) -> None:
    whole = SOURCE.read_bytes()
    cut = whole.index(b"\n>", len(whole) // 2) + 1
    parts = [tmp_path / "b.fa", tmp_path / "a.fa.xz"]
    parts[0].write_bytes(whole[:cut])
    parts[1].write_bytes(PACK["xz"](whole[cut:]))
    manifest, expected = chunk_it(parts, tmp_path / "out"), chunk_it(SOURCE, tmp_path / "one")
    assert manifest.chunks == expected.chunks
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in parts]
    assert manifest.sources_sha256 == hashes
    assert windows_of(tmp_path / "out").equals(windows_of(tmp_path / "one"))
    split, one = contigs_of(tmp_path / "out"), contigs_of(tmp_path / "one")
    assert split.drop(["source"]).equals(one.drop(["source"]))
    first = whole[:cut].count(b">")
    assert split["source"].to_pylist() == [0] * first + [1] * (split.num_rows - first)


def test_equal_ids_are_told_apart_by_their_number(tmp_path: Path) -> None:
    forward, reverse = tmp_path / "R1.fa", tmp_path / "R2.fa"
    forward.write_text(">r1\nATGGCCAAG\n>r2\nATGGCC\n>r1\nATGGCCAAG\n")
    write_fasta(reverse, {"r1": "ATGGCC" * 150, "r2": "ATG"})
    with pytest.raises(InputError, match="this id is used twice"):
        chunk_it([forward, reverse], tmp_path / "out")
    manifest = chunk_it([forward, reverse], tmp_path / "out", chunk_size=2, duplicate_ids="keep")
    assert (manifest.contigs, manifest.chunking.duplicate_ids) == (5, "keep")
    contigs = contigs_of(tmp_path / "out").to_pylist()
    assert [(c["contig_index"], c["contig"], c["length"]) for c in contigs] == [
        (0, "r1", 9), (1, "r2", 6), (2, "r1", 9), (3, "r1", 900), (4, "r2", 3)
    ]  # fmt: skip
    windows = windows_of(tmp_path / "out").to_pylist()
    assert [(w["contig_index"], w["contig"], w["window"]) for w in windows] == [
        (0, "r1", 1), (1, "r2", 1), (2, "r1", 1),
        (3, "r1", 1), (3, "r1", 2), (3, "r1", 3), (4, "r2", 1),
    ]  # fmt: skip
    counted = [0] * len(windows)
    for frame in frames_of(tmp_path / "out").to_pylist():
        window = windows[frame["window_row"]]
        assert (frame["contig"], frame["window"]) == (window["contig"], window["window"])
        counted[frame["window_row"]] += 1
    assert counted == [window["open_frames"] for window in windows]
    assert len({entry.sha256 for entry in manifest.chunks}) == len(manifest.chunks)


@pytest.mark.parametrize("block", [400, 1 << 20])
def test_unambiguous_bases_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Of every window, also of one that overlaps others or is cut at the end of a block."""
    monkeypatch.setattr("virnuc_rules.chunking.writer._BLOCK", block)
    rng = random.Random(1)
    letters = "ACGT", "ACGTUacgtu", "acgtnNRYn", "N"
    records = {
        f"{n}_{size}": "".join(rng.choices(rng.choice(letters), k=size))
        for n, size in enumerate((1, 2, 9, 299, 300, 301, 650, 1800, 5000, 77))
    }
    chunk_it(write_fasta(tmp_path / "in.fa", records), tmp_path / "out")
    rows = windows_of(tmp_path / "out").to_pylist()
    bases = [records[row["contig"]][row["start"] : row["end"]] for row in rows]
    counts = [sum(text.upper().count(base) for base in "ACGTU") for text in bases]
    assert [row["unambiguous"] for row in rows] == counts
    assert len(rows) > 20 and 0 < sum(counts) < sum(map(len, bases))


def test_case_and_rna_change_no_frame(tmp_path: Path) -> None:
    """The tokenizer knows upper-case DNA only: what it gets is made so here."""
    bases = "".join(text for _, text in fasta_pairs(SOURCE))[:20_000].upper()
    made = {}
    forms = {"upper": bases, "lower": bases.lower(), "rna": bases.replace("T", "U"),
             "lower_rna": bases.lower().replace("t", "u")}  # fmt: skip
    for name, text in forms.items():
        source = write_fasta(tmp_path / f"{name}.fa", {"a": text})
        made[name] = chunk_it(source, tmp_path / name, upstream_fasta=tmp_path / f"{name}.up")
        written = fasta_pairs(tmp_path / f"{name}.up/chunked300.fa")
        assert written[0][1] == text[:300]  # the original's file is as the input
    assert all(manifest.chunks == made["upper"].chunks for manifest in made.values())
    assert len(made["upper"].chunks) > 0
    letters = set(
        "".join(text for chunk in read_all(tmp_path / "rna") for text in chunk.nucleotide)
    )
    assert letters >= set("ACGT") and not letters & set("Uacgtun")
