"""Windows of contigs with few bases get no call; reads and VirNucPro's files have every window."""

import gzip
import random
from pathlib import Path

import pytest
from chunk_folders import SOURCE, chunk_it, windows_of, write_fasta
from harness import BUNDLE, read_tsv, rules

from virnuc_rules.config.model import Config, LabelledSettings
from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.called_windows import MIN_BASES, floors
from virnuc_rules.training.calibrate import no_open_frame
from virnuc_rules.training.labelled import read_labelled
from virnuc_rules.training.scored import score_labelled
from virnuc_rules.vocabulary import NO_REASON, Reason

RANDOM = random.Random(4)
OPEN = "ATGGCCAAGGAC" * 50  # no stop in any frame
SHORT = {  # random bases
    f"{n}_{size}": "".join(RANDOM.choices("ACGT", k=size))
    for size in (9, 60, 90, 120)
    for n in range(8)
}
CONTIGS = {
    **SHORT,
    "just_too_short": OPEN[:149],
    "long_enough": OPEN[:150],
    "unknown": "N" * 491 + OPEN[:9],
    "just_unknown": "n" * 251 + OPEN[:249],
    "known_enough": "R" * 250 + OPEN[:250],
}
CALLED = {"long_enough", "known_enough"}


def run(folder: Path, duplicate_ids: str) -> SampleFolder:
    """Chunk, embed and predict by the real commands; the tables."""
    folder.mkdir()
    source, results = write_fasta(folder / "s.fa", CONTIGS), folder / "results"
    (folder / "samples.tsv").write_text(f"sample\tpath\ns\t{source}\n")
    where = ("--results", results, "--bundle", BUNDLE)
    keep = ("--duplicate-ids", duplicate_ids, "--window", 500)
    rules("chunk", source, "--out", results / "chunks/s", *keep, check=True)
    rules("serve", "--samples", folder / "samples.tsv", *where, "--threads", 1, check=True)
    rules("predict", "--sample", "s", "--out", results / "s", *where, check=True)
    return SampleFolder(results / "s", "s")


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> SampleFolder:
    return run(tmp_path_factory.mktemp("contigs") / "run", "error")


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> SampleFolder:
    return run(tmp_path_factory.mktemp("reads") / "run", "keep")


@pytest.mark.parametrize("table", ["windows", "contigs"])
def test_contigs_of_few_bases_get_no_call(contigs: SampleFolder, table: str) -> None:
    rows = {row["contig"]: row for row in read_tsv(contigs.tsv(table))}
    assert list(rows) == list(CONTIGS)
    assert {name for name, row in rows.items() if row["call"] != "no_call"} == CALLED
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons == {
        **dict.fromkeys((*SHORT, "just_too_short"), "too_short"),
        **dict.fromkeys(("unknown", "just_unknown"), "too_ambiguous"),
        **dict.fromkeys(CALLED, ""),
    }
    score = {"windows": "score_virus", "contigs": "score_mean"}[table]
    assert {name for name, row in rows.items() if row[score]} == CALLED


def test_what_follows_from_calls_follows(contigs: SampleFolder) -> None:
    virus = {row["contig"] for row in read_tsv(contigs.tsv("contigs")) if row["call"] == "virus"}
    fasta = gzip.decompress(contigs.viral_fasta.read_bytes()).decode()
    assert {line.split()[0][1:] for line in fasta.splitlines() if line[0] == ">"} == virus
    track = gzip.decompress(contigs.score_track.read_bytes()).decode()
    assert {line.split("\t")[0] for line in track.splitlines()} == CALLED
    assert {row["contig"] for row in read_tsv(contigs.tsv("regions"))} <= CALLED


def test_reads_are_called_as_they_are(reads: SampleFolder) -> None:
    rows = read_tsv(reads.tsv("windows"))
    assert len(rows) == len(CONTIGS)
    assert all((row["call"] == "no_call") == (row["open_frames"] == "0") for row in rows)
    assert {row["reason"] for row in rows} == {"", "no_open_frame"}
    short = [row for row in rows if row["contig"] in SHORT and row["call"] != "no_call"]
    assert len(short) > len(SHORT) / 2
    called = {row["contig"] for row in rows if row["call"] != "no_call"}
    assert {"unknown", "just_too_short"} < called
    by_contig = read_tsv(reads.tsv("contigs"))
    assert {row["contig"] for row in by_contig if row["call"] != "no_call"} == called


def test_the_files_of_virnucpro_have_every_window_with_scores(
    contigs: SampleFolder, reads: SampleFolder
) -> None:
    assert contigs.upstream.read_bytes() == reads.upstream.read_bytes()
    assert contigs.upstream_windows.read_bytes() == reads.upstream_windows.read_bytes()
    rows = read_tsv(contigs.tsv("windows"))
    scored = {f"{row['contig']}_chunk_1" for row in rows if row["open_frames"] != "0"}
    names = [row["Modified_ID"] for row in read_tsv(contigs.upstream_windows)]
    assert names == sorted(scored)
    frames = sum(int(row["open_frames"]) for row in rows)
    assert len(read_tsv(contigs.upstream)) == frames == len(read_tsv(contigs.tsv("orfs")))


def test_an_evaluation_has_the_calls_of_the_tables(contigs: SampleFolder, tmp_path: Path) -> None:
    """And what is below the floors says nothing of how often windows have no open frame."""
    results = contigs.path.parent
    sheet = tmp_path / "labelled.tsv"
    sheet.write_text(f"sample\tpath\tlabel\ns\t{results.parent / 's.fa'}\tvirus\n")
    config = Config.of(samples=sheet, results=results, bundle=BUNDLE, device="cpu", threads=1)
    settings = config.part(LabelledSettings)
    scores = score_labelled(settings, Bundle(BUNDLE), read_labelled(settings), "all")
    for table, found in (("windows", scores.windows), ("contigs", scores.contigs)):
        calls = [row["call"] for row in read_tsv(contigs.tsv(table))]
        assert found.called.tolist() == [call != "no_call" for call in calls]
        assert found.call.tolist() == [call == "virus" for call in calls]
        assert found.floor.tolist() == [call == "no_call" for call in calls]
    # Of the two windows that count each has an open frame: (0 + 1) / (2 + 2).
    assert no_open_frame(scores.windows) == {"virus": 0.25, "non_viral": 0.5}


@pytest.mark.parametrize(("window", "shortest"), [(500, MIN_BASES), (300, MIN_BASES), (60, 60)])
def test_the_floors_of_any_windows(tmp_path: Path, window: int, shortest: int) -> None:
    """A bundle for short windows calls whole ones."""
    manifest = chunk_it(SOURCE, tmp_path, window)
    expected = []
    for row in windows_of(tmp_path).to_pylist():
        size = row["end"] - row["start"]
        is_known = 2 * row["unambiguous"] >= size
        reason = NO_REASON if is_known else Reason.TOO_AMBIGUOUS.code
        expected.append(Reason.TOO_SHORT.code if size < shortest else reason)
    assert floors(windows_of(tmp_path), manifest.chunking).tolist() == expected
    assert NO_REASON in expected
