"""What a run would do: stamps that exist if and only if nothing is left to do for them."""

import os
from pathlib import Path

import pytest
from harness import no_more_open_files
from planning_run import Run

from virnuc_rules.config.run_folder import EVERY as EVERY_
from virnuc_rules.config.run_folder import TRAIN, worker_names
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.made import touch
from virnuc_rules.planning.lacking import lacking, short_results
from virnuc_rules.planning.plan import Plan
from virnuc_rules.planning.products import unembedded


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, workers=2)


def stamps(run: Run) -> set[str]:
    found = run.folder.stamps.rglob("*")
    names = {str(path.relative_to(run.folder.stamps)) for path in found if path.is_file()}
    return names - {"now"}


def done(run: Run) -> set[str]:
    found = run.config.run.results.rglob("done")
    return {str(path.parent.relative_to(run.config.run.results)) for path in found}


WORKERS = {f"worker_{name}" for name in worker_names(2)}
EVERY = {f"worker_{name}" for prefix in (EVERY_, TRAIN) for name in worker_names(2, prefix)}
CHUNKS = {"chunks/a", "chunks/b"}


# --- step by step ------------------------------------------------------------------------------


def test_before_anything_is_done(run: Run) -> None:
    plan = run.settled()
    assert not run.config.run.results.exists()
    assert [(one.chunks, one.tables, one.lacking) for one in plan.samples.values()] == [
        (None, None, [])
    ] * 2
    assert plan.needed(every=False) == plan.needed(every=True) == ["a", "b"]
    assert plan.report() is plan.tables("a") is None


def test_a_sample_is_chunked(run: Run) -> None:
    run.chunk("a")
    plan = run.settled()
    assert done(run) == {"chunks/a"} and stamps(run) == set()
    assert plan.samples["a"].lacking == run.tasks("a") != []
    assert not plan.samples["a"].is_embedded() and not plan.samples["b"].is_embedded()
    run.chunk("b")
    run.settled()
    assert done(run) == CHUNKS and stamps(run) == {"chunked"}


def test_all_is_embedded(run: Run) -> None:
    run.chunk()
    run.embed()
    plan = run.settled()
    assert stamps(run) == {"chunked"} | WORKERS | EVERY
    assert all(one.is_embedded() and not one.is_final for one in plan.samples.values())


def test_all_is_predicted(run: Run) -> None:
    run.finish()
    plan = run.settled()
    assert done(run) == CHUNKS | {"a", "b"}
    assert stamps(run) == {"chunked", "checked"} | WORKERS | EVERY
    assert plan.needed(every=False) == [] and plan.needed(every=True) == ["a", "b"]
    viruses = plan.viruses()
    assert viruses and viruses.current() is None and plan.report() is None
    run.finish_all()
    plan = run.settled()
    assert plan.has_viruses and plan.has_report
    assert plan.folder.viruses.done.exists() and plan.folder.report.done.exists()
    plan.folder.viruses.fasta.unlink()
    plan = run.settled()
    assert not plan.has_viruses and not plan.has_report
    assert not plan.folder.viruses.done.exists() and not plan.folder.report.done.exists()


def test_the_order_of_the_sheet_is_that_of_the_viral_sequences(run: Run) -> None:
    run.finish_all()
    run.files = dict(reversed(run.files.items()))
    run.write_sheet()
    plan = run.settled()
    assert all(sample.is_final for sample in plan.samples.values()) and not plan.has_viruses


def test_what_is_stale_has_an_input_that_is_newer_than_all(run: Run) -> None:
    run.settled()
    assert not run.folder.now.exists()  # a dry run makes no folder
    run.finish()
    run.settled()
    before = run.folder.now.stat().st_mtime_ns
    files = (path for path in run.folder.results.rglob("*") if path != run.folder.now)
    assert before >= max(path.stat().st_mtime_ns for path in files if path.is_file())
    run.settled()
    assert run.folder.now.stat().st_mtime_ns > before


def test_to_look_changes_nothing(run: Run) -> None:
    run.finish()
    plan = run.looked_at()
    assert all(one.is_final for one in plan.samples.values())
    assert done(run) == stamps(run) == set()
    run.settled()
    run.folder.sample("a").tsv("windows").unlink()
    assert not run.looked_at().samples["a"].is_final
    assert done(run) == CHUNKS | {"a", "b"}


# --- what is not up to date any more -----------------------------------------------------------


def test_results_that_are_gone(run: Run) -> None:
    run.chunk()
    run.embed()
    run.settled()
    gone = run.tasks("b")[1]
    run.store.result(gone.key).unlink()
    assert run.settled().samples["b"].lacking == [gone]
    assert stamps(run) == {"chunked"}
    run.embed()
    run.settled()
    assert stamps(run) == {"chunked"} | WORKERS | EVERY


def test_embeddings_of_final_samples_are_not_missed(run: Run) -> None:
    """They may be deleted; `train` and `evaluate` are another matter."""
    run.finish()
    for task in run.tasks("a"):
        run.store.result(task.key).unlink()
    plan = run.settled()
    assert plan.samples["a"].is_final and plan.samples["a"].lacking == []
    assert WORKERS | {"checked"} <= stamps(run)


def test_labelled_samples_need_their_embeddings(run: Run) -> None:
    run.finish()
    run.write_sheet("label")
    for task in run.tasks("a"):
        run.store.result(task.key).unlink()
    plan = run.settled()
    assert plan.samples["a"].is_final and plan.samples["a"].lacking == run.tasks("a")
    assert stamps(run) == {"chunked", "checked"} | WORKERS
    assert plan.needed(every=False) == []


def test_one_sample_is_final_and_the_other_is_not(run: Run) -> None:
    run.finish()
    run.folder.sample("b").tsv("orfs").unlink()
    plan = run.settled()
    assert plan.needed(every=False) == ["b"]
    assert done(run) == CHUNKS | {"a"} and "checked" not in stamps(run)
    assert stamps(run) >= WORKERS  # b is embedded
    run.store.result(run.tasks("b")[0].key).unlink()
    run.settled()
    assert stamps(run) == {"chunked"}


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"min_called_windows": 3}, CHUNKS),
        ({"precision": "fp16"}, CHUNKS),
        ({"chunk_size": 7}, set()),
        ({"workers": 3, "threads": 2, "lease_seconds": 20}, CHUNKS | {"a", "b"}),
    ],
)
def test_other_settings(run: Run, settings: dict[str, object], left: set[str]) -> None:
    run.finish()
    run.settled()
    run.config = run.config.replace(**settings)
    run.settled()
    assert done(run) == left


def test_another_sample_changes_nothing_of_the_first(run: Run) -> None:
    run.finish()
    run.files["c"] = run.files["a"]
    run.write_sheet()
    plan = run.settled()
    assert plan.needed(every=False) == ["c"]
    assert done(run) == CHUNKS | {"a", "b"}
    assert not stamps(run) & {"chunked", "checked"}


def test_an_input_is_new(run: Run) -> None:
    run.finish()
    run.settled()
    run.files["b"].write_text(run.files["b"].read_text() + ">more\nACGT\n")
    plan = run.settled()
    assert done(run) == {"chunks/a", "a"}
    assert plan.samples["b"].chunks is plan.tables("b") is None


def test_a_stamp_that_another_run_makes_meanwhile_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of jobs that ended after this plan looked."""
    run.chunk()
    look = Plan._look_for_results

    def look_too_early(plan: Plan) -> None:
        look(plan)
        touch(run.folder.worker_stamp("0"))

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "_look_for_results", look_too_early)
        run.settled()
    assert stamps(run) == {"chunked", "worker_0"}
    run.settled()
    assert stamps(run) == {"chunked"}


# --- without persistent models -----------------------------------------------------------------


def test_chunks_have_stamps(run: Run) -> None:
    run.config = run.config.replace(persistent_models=False)
    run.chunk()
    run.embed()
    run.settled()
    every = {f"chunks/{s}/{task.path.stem}" for s in ("a", "b") for task in run.tasks(s)}
    found = {name for name in stamps(run) if "/" in name}
    assert found == every and len(every) > 2
    gone = run.tasks("a")[0]
    run.store.result(gone.key).unlink()
    run.settled()
    left = every - {f"chunks/a/{gone.path.stem}"}
    assert {name for name in stamps(run) if "/" in name} == left
    run.files["b"].write_text(">other\nACGT\n")  # will have other chunks with the same names
    run.settled()
    assert {name for name in stamps(run) if "/" in name} == {n for n in left if "/a/" in n}


# --- samples whose files cannot be used --------------------------------------------------------


def test_a_problem_is_no_work_until_its_file_changes(run: Run) -> None:
    run.files["b"].write_text(">x\nACGT\n>y\nMKLV\n")
    run.chunk()
    run.embed("a")
    plan = run.settled()
    assert "illegal letter" in plan.samples["b"].problem and plan.samples["a"].problem == ""
    assert plan.samples["b"].lacking == []
    assert done(run) == CHUNKS and stamps(run) == {"chunked"} | WORKERS | EVERY
    run.predict("a")
    product = run.looked_at().tables("b")
    assert product
    product.finish([], [], None, problem=plan.samples["b"].problem)
    assert run.settled().needed(every=False) == []
    assert done(run) == CHUNKS | {"a", "b"}
    assert "checked" not in stamps(run)  # the run shall fail each time
    run.files["b"].write_text(run.files["a"].read_text())
    plan = run.settled()
    assert plan.samples["b"].chunks is None and done(run) == {"chunks/a", "a"}


def test_a_problem_whose_file_is_gone(run: Run) -> None:
    """There are neither chunks nor a file to make them of: the sheet is wrong."""
    run.files["b"].write_text(">x\nMKLV\n")
    run.chunk()
    run.settled()
    run.files["b"].unlink()
    for plan in (run.looked_at(), run.settled()):
        with pytest.raises(VirnucError, match=r"sample b: .*: no such file"):
            plan.check_inputs()
    assert done(run) == {"chunks/a"}


# --- files of the user -------------------------------------------------------------------------


def test_a_file_that_is_missing(run: Run) -> None:
    run.plan().check_inputs()
    absent = run.files["b"].rename(run.path / "archived.fa").with_name("b.fa")
    with pytest.raises(VirnucError) as raised:
        run.settled().check_inputs()
    assert str(raised.value) == f"{run.sheet}: sample b: {absent}: no such file"
    (run.path / "archived.fa").rename(absent)
    run.chunk()
    absent.unlink()
    run.settled().check_inputs()  # chunked already


def test_a_pattern_that_matches_nothing(run: Run) -> None:
    run.files["b"] = run.path / "sea_*.fa"
    run.write_sheet()
    with pytest.raises(VirnucError) as raised:
        run.settled().check_inputs()
    assert str(raised.value) == f"{run.sheet}: sample b: {run.path}/sea_*.fa: no file matches"


def test_a_name_that_is_too_long(run: Run) -> None:
    run.files["b"] = run.path / ("x" * 300)
    run.write_sheet()
    with pytest.raises(VirnucError, match=r"xxx: File name too long$"):
        run.settled().check_inputs()


def test_what_snakemake_sees_of_the_files(run: Run) -> None:
    """All where there is work; else only what it would not take for a reason to work."""
    file = run.files["a"]
    plan = run.settled()
    assert plan.edges(plan.chunks("a"), [file]) == plan.edges(None, [file]) == [file]
    run.chunk()
    plan = run.settled()
    product = plan.chunks("a")
    assert plan.edges(product, [file]) == [file]
    os.utime(file, (2**33, 2**33))  # as a wrong clock gives it; compared by content before
    product.up_to_date(None)
    plan = run.settled()
    assert product.done.exists() and plan.edges(product, [file]) == []
    long = file.with_name("x" * 300)  # cannot be looked at
    assert plan.edges(None, [file, long]) == [long]  # a job fails if its input is of the future
    file.unlink()
    assert run.settled().edges(product, [file]) == []


# --- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, -(10**9)])
def test_results_of_another_length_are_missing_ones(run: Run, change: int) -> None:
    run.chunk()
    run.embed()
    tasks = run.tasks("a")
    assert lacking(tasks, run.store) == []
    path = run.store.result(tasks[1].key)
    os.truncate(path, max(0, path.stat().st_size + change))
    assert lacking(tasks, run.store) == short_results(tasks, run.store) == [tasks[1]]
    run.store.result(tasks[0].key).unlink()
    assert lacking(tasks, run.store) == tasks[:2]
    plan = run.settled()
    assert plan.samples["a"].lacking == tasks[:2]


def test_what_cannot_be_opened_is_not_damaged(run: Run) -> None:
    """Its filesystem may be away for a moment: nothing is embedded again for that."""
    run.chunk("a")
    tasks = run.tasks("a")
    result = run.store.result(tasks[0].key)
    result.parent.mkdir(parents=True)
    result.write_bytes(b"short")
    assert short_results(tasks[:1], run.store) == tasks[:1]
    with no_more_open_files():
        assert short_results(tasks[:1], run.store) == []
    result.unlink()
    result.mkdir()  # no file at all
    assert lacking(tasks[:1], run.store) == tasks[:1]


def test_scores_are_a_result_but_not_for_train(run: Run) -> None:
    run.chunk("a")
    first, *rest = run.tasks("a")
    (scores,) = (each for each in first.outputs if each != first.output)
    path = run.store.result(scores.key)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(8) + bytes(first.entry.open_frames * scores.row))
    arguments = run.config.run, run.config.embedding, ["a"]
    names = [task.name for task in (first, *rest)]
    assert unembedded(*arguments, need_embeddings=False) == names[1:]
    assert unembedded(*arguments, need_embeddings=True) == names
    run.write_sheet("label")
    plan = run.looked_at().samples["a"]
    assert (plan.lacking, len(plan.unembedded)) == (rest, len(names))
