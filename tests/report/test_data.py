"""What the report counts, at its edges: scores of 1, lengths at a limit, known contigs, damage."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reporting import make_results

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import ResultError
from virnuc_rules.report import data
from virnuc_rules.report.data import (
    _PLACE,
    BINS,
    LENGTHS,
    Contigs,
    SampleSummary,
    add_annotations,
    find_samples,
    read_contigs,
)
from virnuc_rules.report.page import unmatched_labels


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_results(tmp_path, {"lake": len(LENGTHS)}).run.results


def change(path: Path, **columns: Any) -> pa.Table:
    """Give columns of a table other values; its pages are not compressed, but have checksums."""
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array(values, from_pandas=True).cast(field.type))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    return table


def read(results: Path, **labels: str) -> SampleSummary:
    (sample,), missing = find_samples(RunFolder(results), ["lake"], {"lake": labels})
    assert missing == {}
    read_contigs([sample])
    return sample


def test_scores_of_0_and_1_are_in_the_outer_bars(results: Path) -> None:
    path = results / "lake/windows.parquet"
    windows = pq.read_table(path).num_rows
    change(path, probability=[1.0] * (windows - 2) + [0.0] * 2, call=["virus"] * windows)
    found = read(results).histogram["virus"].tolist()
    assert found == [2] + [0] * (BINS - 2) + [windows - 2]


def test_a_contig_at_a_limit_is_of_the_longer_ones(results: Path) -> None:
    change(results / "lake/contigs.parquet", length=LENGTHS, call=["virus"] * len(LENGTHS))
    assert read(results).by_length["virus"].tolist() == [1] * len(LENGTHS)


def test_calls_of_contigs_that_are_known(results: Path) -> None:
    number = len(LENGTHS)
    calls, ids = ["virus", "non_viral", "no_call"] * 3, [f"c{n}" for n in range(number)]
    change(
        results / "lake/contigs.parquet",
        contig=ids, call=calls[:number], called_windows=range(10, 10 + number),
        viral_windows=range(number),
    )  # fmt: skip
    labels = {"c0": "virus", "c1": "virus", "c3": "virus", "c2": "non_viral"}
    sample = read(results, **labels, absent="virus")
    assert unmatched_labels(sample) == "1 of 5 ids in its table of labels match no contig: absent"
    assert sample.known == {
        "virus": {"virus": 2, "non_viral": 1, "called_windows": 34, "viral_windows": 4},
        "non_viral": {"no_call": 1, "called_windows": 12, "viral_windows": 2},
    }


def test_the_first_of_many_labels_without_contig_are_named(results: Path) -> None:
    line = unmatched_labels(read(results, **{f"absent{n}": "virus" for n in range(2000)}))
    assert line.startswith("2,000 of 2,000 ids in its table of labels match no contig: absent0, ")
    assert line.endswith("absent4 and 1,995 more")


def test_a_table_that_has_changed_on_the_disk_is_refused(results: Path) -> None:
    """A number that is another one: only the checksum of its page tells."""
    path = results / "lake/windows.parquet"
    scores = change(path)["margin"].drop_null().to_numpy()
    content = bytearray(path.read_bytes())
    at = content.index(scores[:3].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"windows\.parquet: cannot be read .* run `predict`"):
        read(results)


def test_a_table_of_another_version_says_what_it_lacks(results: Path) -> None:
    path = results / "lake/contigs.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["margin"]), path)
    with pytest.raises(ResultError, match="no column margin: written by another version"):
        read(results)


def test_regions_are_those_of_the_table(results: Path) -> None:
    (sample,), _ = find_samples(RunFolder(results), ["lake"], {})
    contigs = read_contigs([sample])
    table = pq.read_table(results / "lake/regions.parquet").to_pylist()
    assert sample.regions == contigs.columns["regions"].sum() == len(table) > 3
    drawn = iter(zip(*(contigs.regions[name].tolist() for name in _PLACE), strict=True))
    for contig, number in zip(
        contigs.columns["contig_index"], contigs.columns["regions"], strict=True
    ):
        expected = [r for r in table if r["contig_index"] == contig]
        assert len(expected) == number
        for region, found in zip(expected, drawn, strict=False):
            assert found == tuple(region[name] for name in _PLACE)


VIRUSES = pa.schema(
    [
        ("sample", pa.string()), ("contig_index", pa.int64()), ("region", pa.int64()),
        ("length", pa.int64()), *((f"tool.{n}", pa.string()) for n in range(8)),
    ]
)  # fmt: skip


def annotated(results: Path, rows: list[tuple[Any, ...]]) -> Contigs:
    columns = [
        pa.array(column).cast(f.type)
        for column, f in zip(zip(*rows, strict=True), VIRUSES, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=VIRUSES), results / "viruses.parquet")
    (sample,), _ = find_samples(RunFolder(results), ["lake"], {})
    contigs = read_contigs([sample])
    add_annotations(results / "viruses.parquet", [sample], contigs)
    return contigs


def shown(contigs: Contigs, column: int) -> dict[int, str]:
    """Return the values of a column, by contig_index."""
    index, found = contigs.columns["contig_index"].tolist(), contigs.annotations[column]
    return {at: found.values[c - 1] for at, c in zip(index, found.code, strict=True) if c}


def test_the_first_six_annotations_of_whole_contigs(results: Path) -> None:
    """A region, another sample and a contig that is not listed are left out."""
    contigs = annotated(
        results,
        [
            ("lake", 2, None, 9, "Caudo\tvirus", None, *"cdefgh"),
            ("lake", 3, 0, 9, *"abcdefgh"),
            ("gut", 4, None, 9, *"abcdefgh"),
            ("lake", 5, None, 9, "Caudo\tvirus", "", *"cdefgh"),
            ("lake", 400, None, 9, *"abcdefgh"),
        ],
    )
    assert [each.name for each in contigs.annotations] == [f"tool.{n}" for n in range(6)]
    assert shown(contigs, 0) == {2: "Caudo\tvirus", 5: "Caudo\tvirus"}
    assert shown(contigs, 1) == {} and shown(contigs, 5) == {2: "f", 5: "f"}
    assert contigs.annotations[0].values == ["Caudo\tvirus"]
    assert not any(each.full for each in contigs.annotations)


def test_annotations_for_which_there_is_no_room(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MAX_VALUE_BYTES", 12)
    rows = [("lake", n, None, 9, value, *[None] * 7) for n, value in enumerate(("short", "x" * 9))]
    contigs = annotated(results, [*rows, ("lake", 2, None, 9, "short", *[None] * 7)])
    assert shown(contigs, 0) == {0: "short", 2: "short"}
    assert [each.full for each in contigs.annotations] == [True, *[False] * 5]


def test_without_annotations(results: Path) -> None:
    (sample,), _ = find_samples(RunFolder(results), ["lake"], {})
    contigs = read_contigs([sample])
    add_annotations(results / "viruses.parquet", [sample], contigs)
    assert contigs.annotations == []
    (results / "viruses.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultError, match=r"viruses\.parquet: cannot be read"):
        add_annotations(results / "viruses.parquet", [sample], contigs)
