"""Words of residues, and which sequences share a tenth of them with others."""

import logging
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from chunk_folders import chunk_it, write_fasta
from harness import BUNDLE
from labelled import coding

from virnuc_rules.config.model import Config, LabelledSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.training import words as words_module
from virnuc_rules.training.homology import with_homologs
from virnuc_rules.training.labelled import read_labelled
from virnuc_rules.training.split import PARTS
from virnuc_rules.training.words import WORD, clusters, is_homolog, words

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def protein(length: int, seed: int) -> bytes:
    return "".join(np.random.default_rng(seed).choice(list(RESIDUES), length)).encode()


def by_hand(proteins: list[bytes]) -> list[tuple[bytes, int]]:
    return [
        (text[at : at + WORD], index)
        for index, text in enumerate(proteins)
        for at in range(len(text) - WORD + 1)
        if set(text[at : at + WORD].decode()) <= set(RESIDUES)
    ]


@pytest.mark.parametrize(
    "proteins",
    [
        [],
        [b""],
        [b"ACDEFGH"],  # one too short
        [b"", b"ACDEFGHI", b"", b"ACDEFGHIK"],
        [protein(50, 1) + b"X" + protein(20, 2), protein(9, 3), b"AC*DEFGHIKL"],
    ],
)
def test_words_are_those_by_hand(proteins: list[bytes]) -> None:
    word, index = words(proteins)
    expected = by_hand(proteins)
    assert index.tolist() == [at for _, at in expected]
    names: dict[int, bytes] = {}
    for number, (text, _) in zip(word.tolist(), expected, strict=True):
        assert names.setdefault(number, text) == text  # equal numbers are equal words
    assert len(names) == len({text for text, _ in expected})


@pytest.mark.parametrize(("shared", "expected"), [(0, False), (17, True), (16, False), (100, True)])
def test_a_tenth_of_the_words(shared: int, expected: bool) -> None:
    """Of 100 residues, 93 words; a piece of n residues has n - 7 of them, and 9.3 are a tenth."""
    own = protein(100, 1)
    other = protein(200, 2) + own[:shared] + protein(200, 3)
    known = np.unique(words([other])[0])
    assert is_homolog(*words([own]), 1, known).tolist() == [expected]


def test_sequences_without_words_and_no_known_words() -> None:
    word, index = words([b"ACD", protein(30, 1)])
    assert is_homolog(word, index, 3, np.unique(word)).tolist() == [False, True, False]
    assert is_homolog(word, index, 3, word[:0]).tolist() == [False] * 3


@pytest.mark.parametrize("pairs", [1, 1 << 22])
def test_clusters_are_what_is_linked(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """Groups 1 and 3 share half, 3 and 4 the words of another piece; 0 shares 9 of 109."""
    monkeypatch.setattr(words_module, "_MAX_PAIRS", pairs)
    one, other = protein(200, 1), protein(200, 2)
    proteins = [
        protein(100, 3) + one[:16], one, protein(300, 4), one[100:] + other[:60], other[:100], b"",
    ]  # fmt: skip
    found = clusters(*words(proteins), len(proteins))
    assert found.tolist() == [0, 1, 2, 1, 1, 5]
    none = np.zeros(0, np.int64)
    assert clusters(none.astype(np.uint64), none, 2).tolist() == [0, 1]
    assert clusters(none.astype(np.uint64), none, 0).tolist() == []


def by_pairs(word: np.ndarray, group: np.ndarray, groups: int) -> list[int]:
    """Compare each pair of groups, and follow the links."""
    sets = [set(word[group == each].tolist()) for each in range(groups)]
    cluster = list(range(groups))
    for one, other in combinations(range(groups), 2):
        shared = len(sets[one] & sets[other])
        if shared and shared >= 0.1 * min(len(sets[one]), len(sets[other])):
            low, high = sorted((cluster[one], cluster[other]))
            cluster = [low if each == high else each for each in cluster]
    return cluster


@pytest.mark.parametrize("pairs", [1, 50, 1 << 22])
def test_clusters_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """Groups of own words, of words that all may have, and of a few that some have."""
    monkeypatch.setattr(words_module, "_MAX_PAIRS", pairs)
    found = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        groups, number = int(draw.integers(1, 25)), int(draw.integers(0, 500))
        group, word = draw.integers(0, groups, number), draw.integers(0, 60, number)
        own, some = draw.random(number) < 0.9, draw.random(number) < 0.5
        word = np.where(own, word + 1000 * group, np.where(some, word + 1000 * (group // 4), word))
        cluster = clusters(word.astype(np.uint64), group, groups).tolist()
        assert cluster == by_pairs(word, group, groups)
        found.append(len(set(cluster)) / groups)
    assert 0.1 < np.mean(found) < 0.9


def test_many_strains_are_not_compared_pair_by_pair() -> None:
    """All pairs of 3,000 would be 9 million numbers."""
    draw = np.random.default_rng(1)
    word = np.tile(draw.integers(0, 1 << 40, 50, dtype=np.uint64), 3000)
    changed = draw.random(len(word)) < 0.05
    word[changed] = draw.integers(0, 1 << 40, changed.sum(), dtype=np.uint64)
    tracemalloc.start()
    found = clusters(word, np.repeat(np.arange(3000), 50), 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.any()
    assert peak < 30e6


# --- of labelled samples -----------------------------------------------------------------------


def relative(sequence: str, unchanged: float, seed: int) -> str:
    """The first part of the codons, then others."""
    kept = int(len(sequence) * unchanged) // 3 * 3
    return sequence[:kept] + coding(np.random.default_rng(seed), len(sequence) - kept, 0.5)


@pytest.fixture(params=[1 << 24, 2000], ids=["all words", "a sample of them"])
def settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> LabelledSettings:
    """Of each label, contigs of the train part, and for the test part relatives of these."""
    monkeypatch.setattr(words_module, "_MAX_WORDS", request.param)
    rows = ["sample\tpath\tlabel\tpart"]
    for seed, label in enumerate(("virus", "non_viral")):
        draw = np.random.default_rng(seed)
        train = {f"{label}_{n}": coding(draw, 3000, 0.5) for n in range(3)}
        test = {
            f"{label}_half": relative(train[f"{label}_0"], 0.5, seed + 10),
            f"{label}_little": relative(train[f"{label}_1"], 0.04, seed + 20),
            f"{label}_new": coding(draw, 3000, 0.5),
            f"{label}_closed": "TTAA" * 500,
        }
        paths = []
        for part, records in {"train": train, "test": test}.items():
            paths.append(write_fasta(tmp_path / f"{label}_{part}.fa", records))
            rows.append(f"{label}\t{paths[-1]}\t{label}\t{part}")
        chunk_it(paths, RunFolder(tmp_path / "results").chunks(label).path, 500, chunk_size=7)
    (tmp_path / "labelled.tsv").write_text("\n".join(rows) + "\n")
    config = Config.of(
        samples=tmp_path / "labelled.tsv", results=tmp_path / "results", bundle=BUNDLE
    )
    return config.part(LabelledSettings)


def test_relatives_of_the_training_data_are_marked(settings: LabelledSettings) -> None:
    labelled = read_labelled(settings)
    assert all(sample.homolog is None for sample in labelled.samples)
    marked = with_homologs(settings, labelled, {"train", "validation"})
    for sample in marked.samples:
        assert sample.homolog is not None
        found = {sample.ids[row] for row in np.flatnonzero(sample.homolog)}
        assert found == {f"{sample.name}_half"}


def test_relatives_of_another_part_are_not(settings: LabelledSettings) -> None:
    marked = with_homologs(settings, read_labelled(settings), {"validation"})
    assert not any(np.any(sample.homolog) for sample in marked.samples)


def parts_by_id(settings: LabelledSettings, **keys: object) -> dict[str, str]:
    splitting = settings.splitting.model_copy(update=keys)
    labelled = read_labelled(settings.model_copy(update={"splitting": splitting}))
    return {
        name: PARTS[code]
        for sample in labelled.samples
        for name, code in zip(sample.ids, sample.part.tolist(), strict=True)
    }


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_linked_homologs_are_in_one_part(
    settings: LabelledSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Without parts in the sheet, and with one of only the train part."""
    sheet = settings.inputs.samples
    rows = [line.split("\t") for line in sheet.read_text().splitlines()]
    sheet.write_text("".join("\t".join(row[:3]) + "\n" for row in rows))
    apart = 0
    for seed in range(8):
        alone = parts_by_id(settings, seed=seed)
        linked = parts_by_id(settings, seed=seed, link_homologs=True)
        for label in ("virus", "non_viral"):
            assert linked[f"{label}_0"] == linked[f"{label}_half"]
            apart += alone[f"{label}_0"] != alone[f"{label}_half"]
            for same in ("1", "2", "little", "new", "closed"):
                assert linked[f"{label}_{same}"] == alone[f"{label}_{same}"]
    assert apart  # some were, without links
    assert not warnings_of(caplog)
    texts = ["\t".join([*row[:3], row[3] if row[3] != "test" else ""]) for row in rows]
    sheet.write_text("\n".join(texts) + "\n")
    for seed in range(8):
        linked = parts_by_id(settings, seed=seed, link_homologs=True)
        assert linked["virus_half"] == linked["virus_0"] == "train"


def test_parts_of_the_sheet_that_separate_homologs_are_said(
    settings: LabelledSettings, caplog: pytest.LogCaptureFixture
) -> None:
    assert parts_by_id(settings, link_homologs=True)["virus_half"] == "test"
    (said,) = warnings_of(caplog)
    assert said.endswith(
        "labelled.tsv: 2 groups are in another part than their homologs, as the column `part` "
        "says; the first is virus_half"
    )
