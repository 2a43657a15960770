"""`virnuc-rules explain`: why a contig has its call."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import CONTIGS
from embedded import configure, predict
from harness import copy_bundle
from scipy.special import expit

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.inspection.explain import explain
from virnuc_rules.models.card import read_card
from virnuc_rules.prediction.contig_model import FEATURES

Command = Callable[..., subprocess.CompletedProcess[str]]
COEFFICIENTS = dict(zip(FEATURES, (0.3, 0.2, 0.5, 1.5, 1.0, -0.4), strict=True))


def with_contig_model(folder: Path) -> Path:
    """A copy of the bundle with a calibration and a model of contigs."""
    bundle = copy_bundle(folder)
    path = bundle / "bundle.json"
    card = json.loads(path.read_text())
    counts = {"virus": 10, "non_viral": 10}
    model = {"intercept": -0.5, "coefficients": COEFFICIENTS, "longest": 5000, "pieces": counts,
             "log_loss": {}, "reached": {}}  # fmt: skip
    card["calibration"] = {
        "method": "temperature", "temperature": 1.5, "data": [], "part": "all", "windows": counts,
        "classifier": card["sha256"]["classifier.safetensors"], "log_loss": {}, "contigs": model,
    }  # fmt: skip
    path.write_text(json.dumps(card))
    return bundle


@pytest.fixture(scope="module")
def finished(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Samples `gut` and `lake` of the same contigs, but that of one in `lake`. Do not change it."""
    folder = tmp_path_factory.mktemp("explained")
    shutil.copytree(embedded, folder / "results")
    sheet = folder / "samples.tsv"
    sheet.write_text("sample\tpath\ngut\tgut.fa\nlake\tlake.fa\nlate\tlate.fa\n")
    config = configure(folder / "results", samples=sheet)
    config = config.replace(bundle=with_contig_model(folder))
    run = RunFolder(folder / "results")
    predict(config, "gut", run.sample("gut").path)
    shutil.copytree(run.sample("gut").path, run.sample("lake").path)
    path = run.sample("lake").parquet("contigs")
    table = pq.read_table(path)
    pq.write_table(table.filter(table["contig"].to_numpy(zero_copy_only=False) == CONTIGS[0]), path)
    return config


def table(config: Config, name: str, sample: str = "gut") -> list[dict[str, Any]]:
    path = RunFolder(config.run.results).sample(sample).parquet(name)
    return pq.read_table(path).to_pylist()


def of_contig(config: Config, name: str, index: int) -> list[dict[str, Any]]:
    rows = [row for row in table(config, name) if row["contig_index"] == index]
    return [{k: v for k, v in row.items() if k not in ("contig_index", "contig")} for row in rows]


def test_every_contig_is_explained_by_its_rows(finished: Config) -> None:
    assert read_card(finished.run.bundle).contig_model
    explained = 0
    for contig in table(finished, "contigs"):
        found = explain(finished, contig["contig"], "gut", windows=0, frames=True)
        index = contig["contig_index"]
        assert (found.contig_index, found.row | {"contig_index": index}) == (
            index, {k: v for k, v in contig.items() if k != "contig"}
        )  # fmt: skip
        assert (found.windows, found.more_windows) == (of_contig(finished, "windows", index), 0)
        assert found.frames == of_contig(finished, "orfs", index)
        assert found.regions == of_contig(finished, "regions", index)
        assert found.rule == "A contig is called virus from a probability of 0.5 on (default)."
        assert (found.cutoff, found.note) == (0.5, "")
        if contig["probability"] is None:
            assert found.terms == [] and found.row["call"] == "no_call"
            continue
        explained += 1
        by_name = {term.name: term for term in found.terms}
        assert list(by_name) == ["intercept", *FEATURES, "prevalence"]
        total = sum(term.log_odds for term in found.terms)
        assert expit(total) == pytest.approx(contig["probability"], abs=1e-6)
        for name, coefficient in COEFFICIENTS.items():
            assert by_name[name].coefficient == coefficient
            assert by_name[name].log_odds == pytest.approx(coefficient * by_name[name].value)
        length = min(contig["length"], 5000)
        assert by_name["log_length"].value == pytest.approx(np.log10(length / 500), abs=0.02)
    assert explained == 3


def test_as_text(finished: Config, command: Command) -> None:
    options = (
        "--results", finished.run.results, "--samples", finished.inputs.samples,
        "--bundle", finished.run.bundle,
    )  # fmt: skip
    done = command("explain", CONTIGS[1], *options, "--windows", 3, "--frames")
    assert done.returncode == 0, done.stderr
    windows = of_contig(finished, "windows", 1)
    assert len(windows) > 20 and f"and {len(windows) - 3} more (--windows 0: all)" in done.stdout
    assert f"{CONTIGS[1]} (sample gut, contig_index 1)" in done.stdout
    assert "\n  1       0-500" in done.stdout and "\n  4       " not in done.stdout
    assert "call or reason" in done.stdout and "evidence_by_length" in done.stdout
    shown = json.loads(command("explain", CONTIGS[1], *options, "--json").stdout)
    assert len(shown["windows"]) == 20 and shown["frames"] == []


@pytest.mark.parametrize(
    ("contig", "more", "problem"),
    [
        (CONTIGS[0], {}, r"2 contigs .*sample gut contig_index 0, sample lake contig_index 0; ch"),
        (CONTIGS[0][:-1], {}, rf"in the tables of 2 of 3 samples; did you mean {CONTIGS[0]}"),
        (CONTIGS[1], {"sample": "lake"}, "in the tables of sample lake"),
        (CONTIGS[1], {"sample": "guts"}, r"no sample 'guts' in .*; did you mean gut\?"),
        (CONTIGS[1], {"sample": "late"}, "late: no tables; run the workflow"),
        (CONTIGS[1], {"contig_index": 7}, "no contig"),
        ("", {}, "no contig ''"),
        ("\x1b[31m[red]\n", {}, r"no contig '\\x1b\[31m\[red\]\\n'"),
    ],
)
def test_what_is_not_there(
    finished: Config, contig: str, more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(VirnucError, match=problem) as raised:
        explain(finished, contig, **more)
    assert "\n" not in str(raised.value)


def test_one_of_two_with_the_same_id(finished: Config, tmp_path: Path) -> None:
    """As the reads of a pair; and ids are text, whatever is in them."""
    shutil.copytree(finished.run.results, tmp_path / "results")
    config = finished.replace(results=tmp_path / "results")
    path = RunFolder(tmp_path / "results").sample("gut").parquet("contigs")
    hostile = "[red]a|'b'\"c[/red]"
    rows = pq.read_table(path)
    ids = [hostile, hostile, *rows["contig"].to_pylist()[2:]]
    pq.write_table(rows.set_column(1, "contig", [ids]), path)
    with pytest.raises(VirnucError, match="sample gut contig_index 0, sample gut contig_index 1"):
        explain(config, hostile)
    found = explain(config, hostile, contig_index=1)
    assert next(found.lines()) == f"{hostile} (sample gut, contig_index 1)"
    assert found.windows == of_contig(finished, "windows", 1)[:20]


def test_another_bundle_than_that_of_the_tables(finished: Config, tmp_path: Path) -> None:
    for bundle, problem in (
        (finished.run.bundle.parent / "none", "none"),
        (copy_bundle(tmp_path), "is not the one of these tables; run again"),
    ):
        found = explain(finished.replace(bundle=bundle), CONTIGS[1])
        assert found.terms == [] and problem in found.note and found.windows


@pytest.mark.parametrize("name", ["contigs", "windows", "orfs", "regions", "calls"])
@pytest.mark.parametrize("how", ["damaged", "older", "missing"])
def test_a_table_that_cannot_be_used(finished: Config, tmp_path: Path, name: str, how: str) -> None:
    shutil.copytree(finished.run.results, tmp_path / "results")
    folder = RunFolder(tmp_path / "results").sample("gut")
    path = folder.calls if name == "calls" else folder.parquet(name)
    if how == "missing":
        path.unlink()
    elif how == "damaged" or name == "calls":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        rows = pq.read_table(path)
        pq.write_table(rows.rename_columns(["contig_number", *rows.column_names[1:]]), path)
    with pytest.raises(VirnucError) as raised:
        explain(finished.replace(results=tmp_path / "results"), CONTIGS[1], "gut", frames=True)
    text = str(raised.value)
    assert "\n" not in text and "run" in text and str(folder.path) in text


def test_only_the_row_groups_of_a_contig_are_read(finished: Config, tmp_path: Path) -> None:
    """A row group of other contigs may even be damaged."""
    shutil.copytree(finished.run.results, tmp_path / "results")
    path = RunFolder(tmp_path / "results").sample("gut").parquet("windows")
    pq.write_table(pq.read_table(path), path, row_group_size=5, write_page_checksum=True)
    meta = pq.ParquetFile(path).metadata
    first = meta.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    for at in range(start, start + first.total_compressed_size):
        content[at] ^= 0xFF
    path.write_bytes(content)
    config = finished.replace(results=tmp_path / "results")
    assert explain(config, CONTIGS[2], windows=0).windows == of_contig(finished, "windows", 2)
    with pytest.raises(VirnucError, match=r"windows.parquet: cannot be read"):
        explain(config, CONTIGS[0], "gut")
