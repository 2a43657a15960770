"""Scores as the original writes them; tables that do not depend on how their rows come."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import read_tsv
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_rules.chunking.format import CHUNK_SCHEMA
from virnuc_rules.config.model import SHIPPED_BUNDLE, Calling, Chunking, Probability
from virnuc_rules.config.run_folder import ChunkFolder, SampleFolder
from virnuc_rules.files.tsv import lines, shortest
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import Calibration, read_card
from virnuc_rules.prediction import tables
from virnuc_rules.prediction.called_windows import WindowCalls, called_windows
from virnuc_rules.prediction.decision import Decision, decide
from virnuc_rules.prediction.scored_chunks import ScoredChunk
from virnuc_rules.prediction.tables import SampleTables, write_highest_score
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.vocabulary import Frame, Reason

VANILLA = Path(__file__).parents[1] / "data/vanilla_real"


def scored(ids: list[str], scores: np.ndarray) -> ScoredChunk:
    """Open frames with names as the original's, `<contig>_chunk_<number><frame>`."""
    rows = []
    for name in ids:
        contig, rest = name.rsplit("_chunk_", 1)
        rows.append([0, contig, int(rest[:-2]), rest[-2:], 0, 3, "ACGT", "T"])
    names = CHUNK_SCHEMA.names
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], CHUNK_SCHEMA)
    return ScoredChunk(table, scores)


def decided(calibration: Calibration | None, *windows: WindowCalls) -> Decision:
    card = read_card(SHIPPED_BUNDLE).model_copy(update={"calibration": calibration})
    return decide(windows, card, Odds.of(calibration), Calling(), Probability(prevalence="0.5"))


def write_frames(folder: Path, *frames: ScoredChunk) -> Path:
    folder.mkdir(exist_ok=True)
    with SampleTables(SampleFolder(folder, "s")) as written:
        for chunk in frames:
            written.add_frames(chunk, np.zeros(chunk.table.num_rows, np.int64))
        written.finish(decided(None))
    return folder


# --- the numbers of the original ---------------------------------------------------------------


def test_the_consensus_of_the_original(tmp_path: Path) -> None:
    rows = read_tsv(VANILLA / "prediction_results.txt")
    windows = list(dict.fromkeys(row["Sequence_ID"][:-2] for row in rows))
    consensus = Consensus.empty(len(windows))
    for row in rows:  # a frame at a time
        scores = np.array([[row["score1"], row["score2"]]], np.float32)
        frame = np.array([Frame(row["Sequence_ID"][-2:]).code], np.int8)
        consensus.add(np.array([windows.index(row["Sequence_ID"][:-2])]), frame, scores)
    assert consensus.frames.tolist() == [2, 2]
    write_highest_score(tmp_path / "it", [pa.table({"id": windows, "is_virus": consensus.virus})])
    expected = (VANILLA / "prediction_results_highestscore.csv").read_bytes()
    assert (tmp_path / "it").read_bytes() == expected


def test_the_score_table_of_the_original(tmp_path: Path) -> None:
    rows = read_tsv(VANILLA / "prediction_results.txt")
    scores = np.array([[row["score1"], row["score2"]] for row in rows], np.float32)
    folder = write_frames(tmp_path, scored([row["Sequence_ID"] for row in rows], scores))
    expected = (VANILLA / "prediction_results.txt").read_bytes()
    assert (folder / "prediction_results.txt").read_bytes() == expected


def test_rows_of_the_highest_scores_are_sorted_as_python_sorts(tmp_path: Path) -> None:
    pairs = [("b_chunk_1", True), ("é_chunk_1", True), ("a_chunk_2", False), ("a_chunk_10", True)]
    pairs += [("B_chunk_1", True), ("a_chunk_2", True), ("a_chunk_2", False), ("𝛼_chunk_1", True)]
    pairs += [("\uffee_chunk_1", False)]  # before 𝛼 in UTF-8 and in Python, after it in UTF-16
    parts = [pa.table({"id": [i for i, _ in p], "is_virus": [v for _, v in p]}) for p in
             (pairs[:3], pairs[3:])]  # fmt: skip
    write_highest_score(tmp_path / "it", parts)
    written = (tmp_path / "it").read_text().splitlines()
    assert written == ["Modified_ID\tIs_Virus", *(f"{i}\t{v}" for i, v in sorted(pairs))]


# --- scores as text, labels --------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SCORES = st.one_of(
    st.floats(0, 1, width=32), FLOATS, st.floats(9e-5, 2e-4), st.sampled_from([0.0, 1.0, 1e-4])
)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(SCORES, min_size=1, max_size=50))
def test_scores_are_written_as_the_original_writes_them(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    scores = np.array([[value, -value] for value in values], np.float32)
    chunk = scored([f"c_chunk_{n}F1" for n in range(len(values))], scores)
    folder = write_frames(tmp_path_factory.mktemp("scores"), chunk)
    upstream = read_tsv(folder / "prediction_results.txt")
    ours = read_tsv(folder / "orfs.tsv")
    for pair, row, own in zip(scores, upstream, ours, strict=True):
        assert row["score1"] == own["score_non_viral"] == str(np.float32(pair[0]))
        assert row["score2"] == own["score_virus"] == str(np.float32(pair[1]))
        assert np.float32(row["score1"]).tobytes() == pair[0].tobytes()
    kept = pq.read_table(folder / "orfs.parquet")["score_virus"].to_numpy()
    assert kept.tobytes() == np.ascontiguousarray(scores[:, 1]).tobytes()


def test_a_sample_of_all_numbers_between_0_and_1() -> None:
    """Every 20,001st; see `shortest`."""
    bits = np.arange(0, np.float32(1).view(np.uint32) + 1, 20_001, dtype=np.uint32)
    numbers = np.append(bits.view(np.float32), np.float32([1e-4, 1, 0]))
    assert shortest(numbers).to_pylist() == numbers.astype(str).tolist()


def test_lines_have_empty_places_for_what_is_missing() -> None:
    floats = pa.array([0.25, None, 1e-7], pa.float32())
    text = lines(pa.array(['a"', None, "c,"]), floats, "x", np.array([1, 2, 3]))
    assert bytes(text).decode() == 'a"\t0.25\tx\t1\n\t\tx\t2\nc,\t1e-07\tx\t3\n'
    assert bytes(lines(pa.array([None, "b"]), pa.array(["a", None]))) == b"\ta\nb\t\n"
    assert bytes(lines(pa.array([], pa.string()))) == b""


def test_the_label_is_the_higher_score_and_non_viral_in_a_tie(tmp_path: Path) -> None:
    scores = np.array([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]], np.float32)
    write_frames(tmp_path, scored(["a_chunk_1F1", "a_chunk_1R2", "b_chunk_12F3"], scores))
    labels = [row["label"] for row in read_tsv(tmp_path / "orfs.tsv")]
    assert labels == ["non_viral", "virus", "non_viral"]
    upstream = [row["Prediction"] for row in read_tsv(tmp_path / "prediction_results.txt")]
    assert upstream == ["others", "virus", "others"]  # its own word


def test_the_files_do_not_depend_on_how_many_rows_are_added_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virnuc_rules.prediction.table.BLOCK_ROWS", 7)
    ids = [f"c{n // 3}_chunk_{n % 3 + 1}R{n % 3 + 1}" for n in range(40)]
    scores = np.random.default_rng(1).random((40, 2), np.float32)
    folders = [write_frames(tmp_path / "whole", scored(ids, scores))]
    for size in (1, 7, 9):
        parts = range(0, 40, size)
        chunks = [scored(ids[a : a + size], scores[a : a + size]) for a in parts]
        folders.append(write_frames(tmp_path / str(size), *chunks))
    for name in ("orfs.tsv", "orfs.parquet", "prediction_results.txt"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    assert pq.ParquetFile(folders[0] / "orfs.parquet").num_row_groups == 6


def test_files_are_on_disk_before_the_first_is_moved_and_folders_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, out, steps = tmp_path / "stage", tmp_path / "out", []
    (stage / "tracks").mkdir(parents=True)
    files = SampleFolder(stage, "s").files()
    for path in files:
        path.touch()
    out.mkdir()
    replace = Path.replace
    monkeypatch.setattr(
        "os.fsync",
        lambda number: steps.append(("sync", Path(f"/proc/self/fd/{number}").readlink())),
    )
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (steps.append(("move", to)), replace(path, to))
    )
    tables.move_into_place(SampleFolder(stage, "s"), SampleFolder(out, "s"))
    count = len(files)
    assert [step for step, _ in steps] == ["sync"] * count + ["move"] * count + ["sync"] * 2
    assert [path for _, path in steps[:count]] == files
    assert {path for _, path in steps[count : 2 * count]} == set(SampleFolder(out, "s").files())
    assert {path for _, path in steps[2 * count :]} == {out, out / "tracks"}


def test_a_window_has_the_probability_of_its_margin(tmp_path: Path) -> None:
    consensus = Consensus.empty(3)
    scores = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    consensus.add(np.array([0, 2]), np.array([0, 3], np.int8), scores)
    names = ["contig_index", "contig", "window", "start", "end", "open_frames", "reason"]
    rows = [
        [0, "a", 1, 0, 500, 1, None],
        [0, "a", 2, 500, 1000, 0, "no_open_frame"],
        [0, "a", 3, 1000, 1500, 1, None],
    ]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    contigs = {"contig_index": [0], "contig": ["a"], "length": [1500], "terminal_repeat": [None]}
    plain = Calibration(
        method="temperature", temperature=1.0, classifier="", data=[], part="all", windows={},
        log_loss={},
    )  # fmt: skip
    odds, chunks = Odds.of(plain), ChunkFolder(tmp_path)
    chunking = Chunking(window=500, duplicate_ids="keep")  # without floors
    windows = called_windows(pa.table(contigs), table, consensus, odds, chunks, chunking)
    with SampleTables(SampleFolder(tmp_path, "s")) as written:
        decision = decided(plain, windows)
        written.add_contigs(pa.table(contigs), table, consensus, windows, decision, odds)
        written.finish(decision)
    found = pq.read_table(tmp_path / "windows.parquet")["probability"].to_pylist()
    assert found == [pytest.approx(0.8), None, pytest.approx(0.4)]


def test_a_bit_that_flips_on_the_disk_is_found(tmp_path: Path) -> None:
    ids = [f"c_chunk_{n}F1" for n in range(1, 1001)]
    chunk = scored(ids, np.random.default_rng(0).random((1000, 2), np.float32))
    path = write_frames(tmp_path, chunk) / "orfs.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(7)
    assert column.path_in_schema == "score_non_viral"
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


# --- what is written of them -------------------------------------------------------------------


@pytest.mark.parametrize("table", tables.SCHEMAS)
def test_every_column_is_documented(table: str) -> None:
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text()
    section = text.split(f"\n## {table}\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    documented = [(row[1].strip(" `"), row[2].strip()) for row in rows if len(row) == 6]
    assert documented == [(field.name, str(field.type)) for field in tables.SCHEMAS[table]]


def test_every_file_and_reason_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text()
    for path in SampleFolder(Path(), "<sample>").files():
        assert f"`{path}`" in text
    for reason in Reason:
        assert f"\n| `{reason}` | " in text
    places = [text.index(f"\n| `{reason}` | ") for reason in Reason]
    assert places == sorted(places)  # the order counts
