"""`explain`: the rows of one contig, and what the model of contigs adds up to its probability."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from harness import BUNDLE, Project, read_tsv, rules
from scipy.special import expit, logit

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.errors import ResultError, VirnucError
from virnuc_rules.files.tsv import escape
from virnuc_rules.inspection.explain import explain, rendered
from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.models.card import Calibration, ContigModel, read_card
from virnuc_rules.prediction.contig_model import FEATURES
from virnuc_rules.terminal import Terminal
from virnuc_rules.vocabulary import Label

MODEL = ContigModel(
    intercept=-0.5, coefficients={name: 0.3 + n / 10 for n, name in enumerate(FEATURES)},
    longest=20_000, pieces=dict.fromkeys(Label, 10), log_loss={}, reached={},
)  # fmt: skip


def calibration(bundle: Path, model: ContigModel) -> Calibration:
    classifier = read_card(bundle).sha256["classifier.safetensors"]
    return Calibration(
        method="temperature", temperature=0.5, classifier=classifier, data=[], part="all",
        windows={}, log_loss={}, no_open_frame=dict.fromkeys(Label, 0.4), contigs=model,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(undisturbed: Project, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The demo run, called with a bundle that has a model of contigs."""
    folder = tmp_path_factory.mktemp("explained")
    bundle, results = folder / "bundle", folder / "results"
    shutil.copytree(BUNDLE, bundle)
    rewrite_card(bundle, calibration=calibration(bundle, MODEL))
    results.mkdir()
    for name in ("chunks", "embeddings"):
        (results / name).symlink_to(undisturbed.results / name)
    for sample in ("lake", "gut"):
        options = ("--results", results, "--bundle", bundle)
        rules("predict", "--sample", sample, "--out", results / sample, *options, check=True)
    sheet = undisturbed.folder / "samples.tsv"
    return Config.of(samples=sheet, results=results, bundle=bundle)


def shown(config: Config, contig: str, windows: int = 20, frames: bool = False) -> str:
    text = io.StringIO()
    found = explain(config, contig, "")
    Terminal(file=text, width=80).print(rendered(found, windows, frames))
    return text.getvalue()


def test_what_is_added_is_the_probability_of_the_table(config: Config) -> None:
    results = config.run.results
    for sample in ("lake", "gut"):
        calls = json.loads((results / sample / "calls.json").read_text())
        even = logit(calls["contigs"]["prevalence"])
        for row in read_tsv(results / sample / "contigs.tsv"):
            found = explain(config, row["contig"], sample)
            total = sum(more for _, more in found.added.values())
            if row["probability"]:
                assert list(found.added) == ["intercept", *FEATURES]
                assert expit(total + even) == pytest.approx(float(row["probability"]), abs=1e-4)
            else:
                assert found.added == {}
            assert not found.changed and found.contig["call"] == row["call"]
            windows = read_tsv(results / sample / "windows.tsv")
            own = [w for w in windows if w["contig_index"] == row["contig_index"]]
            assert [w["window"] for w in found.windows] == [int(w["window"]) for w in own]
            assert len(found.frames) == sum(w["open_frames"] for w in found.windows)


def test_a_bundle_that_has_changed_is_noticed(config: Config, tmp_path: Path) -> None:
    other = tmp_path / "bundle"
    shutil.copytree(config.run.bundle, other)
    model = MODEL.model_copy(update={"intercept": 2.0})
    rewrite_card(other, calibration=calibration(other, model))
    assert explain(config.replace(bundle=other), "K01711.1", "").changed
    assert "The bundle has changed since" in shown(config.replace(bundle=other), "K01711.1")


def test_what_a_user_reads(config: Config) -> None:
    text = shown(config, "K01711.1", windows=3, frames=True)
    assert text.startswith("gut: K01711.1: ")
    assert "A contig is called virus from a probability of 0.5 on (default)." in text
    assert re.search(r"Its probability is 0\.\d{3}\.", text) and "29 more windows" in text
    assert all(re.search(rf"^{name} +\S+ +\S+ *$", text, re.MULTILINE) for name in FEATURES)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "more windows" not in shown(config, "K01711.1", windows=0)


def test_which_contig(config: Config, tmp_path: Path) -> None:
    with pytest.raises(VirnucError, match=r"^'K0171': no contig .* there are K01711\.1$"):
        explain(config, "K0171", "")
    with pytest.raises(VirnucError, match=r" id; did you mean K01711\.1\?$"):
        explain(config, "K01712.1", "")
    with pytest.raises(VirnucError, match=r"^'\[red\]\\n': no contig of lake, gut has this id$"):
        explain(config, "[red]\n", "")
    with pytest.raises(VirnucError, match=r"^'': no contig of lake, gut has this id$"):
        explain(config, "", "")
    with pytest.raises(VirnucError, match=r"no sample 'guts' in it; did you mean gut\?$"):
        explain(config, "K01711.1", "guts")
    with pytest.raises(VirnucError, match="no tables of gut; run the workflow first"):
        explain(config.replace(results=tmp_path / "none"), "K01711.1", "gut")
    twice = tmp_path / "results"
    twice.mkdir()
    for sample in ("lake", "gut"):
        (twice / sample).symlink_to(config.run.results / "gut")
    both = config.replace(results=twice)
    with pytest.raises(VirnucError, match=r"^K01711\.1: samples lake, gut have it; give --sample$"):
        explain(both, "K01711.1", "")
    assert explain(both, "K01711.1", "lake").sample == "lake"


def copied(config: Config, folder: Path) -> tuple[Config, SampleFolder]:
    """The run with tables of `gut` that a test may change."""
    shutil.copytree(config.run.results / "gut", folder / "results" / "gut")
    changed = config.replace(results=folder / "results")
    return changed, RunFolder(changed.run.results).sample("gut")


def test_two_of_a_sample_with_the_same_id(config: Config, tmp_path: Path) -> None:
    """As the reads of a pair; and an id is text, whatever is in it."""
    config, folder = copied(config, tmp_path)
    path, hostile = folder.parquet("contigs"), "[red]a|'b'\"c[/red]"
    rows = pq.read_table(path)
    ids = [hostile, hostile, *rows["contig"].to_pylist()[2:]]
    pq.write_table(rows.set_column(1, "contig", [ids]), path)
    with pytest.raises(VirnucError, match="contig_index 0, 1 have this id; give --contig-index"):
        explain(config, hostile, "")
    second = explain(config, hostile, "gut", contig_index=1)
    assert second.contig["length"] == rows["length"][1].as_py() and second.windows
    text = io.StringIO()
    Terminal(file=text, width=200).print(rendered(second, 1, False))
    assert text.getvalue().startswith(f"gut: {hostile}: ")
    assert explain(config, escape(hostile), "gut", contig_index=1) == second  # as in the table


def test_only_what_is_shown_is_read(config: Config) -> None:
    every, some = (explain(config, "K01711.1", "", windows=n) for n in (0, 3))
    assert (some.added, some.changed) == (every.added, False)
    assert some.windows == every.windows[:3] and len(every.windows) == 32
    assert some.frames == [frame for frame in every.frames if frame["window"] <= 3]
    assert explain(config, "K01711.1", "", windows=3, frames=False).frames == []


@pytest.mark.parametrize("name", ["contigs", "windows", "orfs", "regions", "calls"])
@pytest.mark.parametrize("how", ["cut", "older"])
def test_a_table_that_cannot_be_used_is_one_line(
    config: Config, tmp_path: Path, name: str, how: str
) -> None:
    config, folder = copied(config, tmp_path)
    path = folder.calls if name == "calls" else folder.parquet(name)
    if how == "cut" or name == "calls":
        text = path.read_bytes()
        path.write_bytes(text[: len(text) // 2] if how == "cut" else text.replace(b"cut", b"c", 1))
    else:
        rows = pq.read_table(path)
        pq.write_table(rows.rename_columns(["contig_number", *rows.column_names[1:]]), path)
    with pytest.raises(ResultError, match=r"run `predict` again$") as raised:
        explain(config, "K01711.1", "gut")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_bundle_without_the_model_of_the_tables(config: Config) -> None:
    found = explain(config.replace(bundle=BUNDLE), "K01711.1", "")
    assert found.contig["probability"] is not None and (found.added, found.changed) == ({}, True)


def test_the_command(config: Config) -> None:
    options = [f"--{key}={value}" for key, value in (
        ("samples", config.inputs.samples), ("results", config.run.results),
        ("bundle", config.run.bundle),
    )]  # fmt: skip
    done = rules("explain", "K01711.1", *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert np.isfinite(found["contig"]["probability"]) and len(found["windows"]) == 32
