"""What a run will embed, and why: one line a user reads before a day of GPU time is spent."""

import shutil
from pathlib import Path

import pytest
from harness import BUNDLE
from planning_run import Run

from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.planning.forecast import Forecast, forecast


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def forecast_of(run: Run) -> Forecast:
    return forecast(run.looked_at())


def chunks(run: Run) -> int:
    return sum(len(run.tasks(sample)) for sample in run.files)


def test_a_new_run(run: Run) -> None:
    assert list(forecast_of(run).lines()) == [
        "0 of 2 samples are up to date",
        "to chunk first, so not counted: a, b",
    ]
    run.chunk("a")
    count, frames = len(run.tasks("a")), sum(task.entry.open_frames for task in run.tasks("a"))
    assert list(forecast_of(run).lines()) == [
        "0 of 2 samples are up to date",
        f"to embed: {count} chunks with {frames} open frames ({count} new)",
        "to chunk first, so not counted: b",
    ]


def test_a_finished_run(run: Run) -> None:
    run.finish()
    assert list(forecast_of(run).lines()) == [
        "2 of 2 samples are up to date",
        "to embed: 0 chunks",
    ]


def test_embedded_and_not_predicted(run: Run) -> None:
    run.chunk()
    run.embed()
    found = forecast_of(run)
    assert (found.to_predict, found.up_to_date, found.chunks.total()) == (["a", "b"], [], 0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "fp16"}, "other precision"),
        ({"batch_tokens": 4096}, "other batch_tokens"),
        ({"precision": "fp16", "batch_tokens": 4096}, "other precision and batch_tokens"),
    ],
)
def test_other_settings_of_embeddings(run: Run, settings: dict[str, object], reason: str) -> None:
    run.finish()
    run.config = run.config.replace(**settings)
    found = forecast_of(run)
    assert found.chunks == {reason: chunks(run)} and found.to_predict == ["a", "b"]
    frames = sum(task.entry.open_frames for sample in run.files for task in run.tasks(sample))
    assert found.open_frames == frames


def exchange(run: Run, folder: Path, network: str) -> None:
    """Make the run's bundle another one: the file of one network differs."""
    bundle = shutil.copytree(BUNDLE, folder / "bundle")
    weights = bundle / f"{network}.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    rewrite_card(bundle)
    run.config = run.config.replace(bundle=bundle)


def test_another_bundle(run: Run, tmp_path: Path) -> None:
    run.finish()
    exchange(run, tmp_path, "esm2")
    assert forecast_of(run).chunks == {"other bundle": chunks(run)}


def test_another_classifier_is_no_reason_to_embed(run: Run, tmp_path: Path) -> None:
    run.finish()
    exchange(run, tmp_path, "classifier")
    found = forecast_of(run)
    assert found.chunks == {} and found.to_predict == ["a", "b"]


def test_a_bundle_that_is_to_be_made(run: Run, tmp_path: Path) -> None:
    """No key of a result is known: all is embedded."""
    run.finish()
    of_a, of_b = (len(run.tasks(sample)) for sample in run.files)
    run.config = run.config.replace(bundle=tmp_path / "nowhere", bundle_definition="virnucpro-500")
    why = "of a bundle that is made first"
    assert forecast_of(run).chunks == {why: of_a + of_b}
    assert f"to embed: at most {of_a + of_b} chunks" in "\n".join(forecast_of(run).lines())
    run.folder.sample("a").made.unlink()
    assert forecast_of(run).chunks == {"new": of_a, why: of_b}


def test_results_that_are_gone(run: Run) -> None:
    run.finish()
    for sample in run.files:
        run.folder.sample(sample).tsv("windows").unlink()
    gone, cut, *_ = run.tasks("b")
    run.store.result(gone.key).unlink()
    run.store.result(cut.key).write_bytes(b"")
    assert forecast_of(run).chunks == {"missing result": 2}
    run.fail(gone)
    assert forecast_of(run).chunks == {"missing result": 1, "failed before": 1}


def test_a_failure_that_was_made_good_later(run: Run) -> None:
    run.chunk()
    run.embed()
    run.fail(run.tasks("a")[0])
    assert forecast_of(run).chunks == {}


def test_equal_chunks_are_embedded_once(run: Run) -> None:
    run.files["b"].write_text(run.files["a"].read_text())
    run.chunk()
    assert forecast_of(run).chunks == {"new": len(run.tasks("a"))}


def test_other_chunks_are_new(run: Run) -> None:
    run.finish()
    run.config = run.config.replace(chunk_size=7)
    assert forecast_of(run).to_chunk == ["a", "b"]
    run.chunk()
    assert forecast_of(run).chunks == {"new": chunks(run)}


def test_samples_that_cannot_be_used(run: Run) -> None:
    run.files["b"].write_text(">x\nMKLV\n")
    run.chunk()
    run.embed("a")
    run.predict("a")
    found = forecast_of(run)
    assert found.up_to_date == ["a"] and found.to_predict == []
    first, second, problem = found.lines()
    assert (first, second) == ("1 of 2 samples are up to date", "to embed: 0 chunks")
    assert problem.startswith(f"cannot be used: sample b: {run.files['b']}: record 1")


def test_archived_files(run: Run) -> None:
    run.finish()
    run.files["a"].unlink()
    found = forecast_of(run)
    assert found.up_to_date == ["a", "b"]
    assert list(found.lines())[2:] == [f"gone, and not needed: {run.files['a']}"]


def test_samples_of_version_0_1(run: Run) -> None:
    run.finish()
    run.folder.chunks("a").made.unlink()
    found = forecast_of(run)
    assert found.to_chunk == found.of_other_version == ["a"]
    assert "of VirNuc 0.1: a: their tables stay until new ones are made" in list(found.lines())[2]


def test_many_names_are_not_all_said() -> None:
    *_, line = Forecast(to_chunk=[f"s{n}" for n in range(1205)]).lines()
    assert line.endswith("s0, s1, s2, s3, s4 and 1,200 more")
