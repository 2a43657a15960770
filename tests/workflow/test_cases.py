"""Cases that failed when VirNuc 0.1 was tried as its users would; more in test_convergence.py."""

import copy
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from convergence import (
    LENGTHS,
    contents,
    copied,
    halve,
    new_project,
    problems,
    products,
    run,
    sequence,
)
from edits import EDITS, labelled
from harness import BUNDLE, Project, embedded_chunks, environment, jobs, read_tsv, rules

from virnuc_rules.bundles.definition import with_window
from virnuc_rules.config.model import check_config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.planning.plan import Plan

COMMANDS = (
    "chunk", "serve", "embed", "predict", "collect", "check", "report", "status", "doctor", "train",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run. Do not change it."""
    project = new_project(tmp_path_factory.mktemp("finished"))
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return copied(finished, tmp_path / "p")


def test_r5_an_archived_file_that_is_needed_is_one_line(project: Project) -> None:
    EDITS["a.fa archived"].apply(project)
    project.settings |= {"chunk_size": 7, "min_score": 0.99}
    before = contents(project)
    after = run(project)
    assert after.code == 1
    assert after.problems == {"samples.tsv: sample a: a.fa: no such file"}
    assert after.products == before


def test_a_file_without_permission(project: Project) -> None:
    """Root may read everything: the run gives this right away. The sample is tried again."""
    os.utime(project.folder / "a.fa")
    (project.folder / "a.fa").chmod(0)
    rights = "-dac_override,-dac_read_search"
    without = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
    if subprocess.run([*without, "true"], check=False).returncode:
        pytest.skip("root may not give rights away here")
    refused = subprocess.run(
        [*without, *project.command()], cwd=project.folder, env=environment(), text=True,
        capture_output=True, timeout=400,
    )  # fmt: skip
    assert refused.returncode == 1
    line = "sample a: a.fa: cannot be read (Permission denied)"
    assert line in project.paths.log("check").read_text()
    assert jobs(refused.stdout + refused.stderr)["chunk"] == 1
    (project.folder / "a.fa").chmod(0o644)
    assert project.run().returncode == 0


def test_a_mistyped_path_is_not_an_archived_file(project: Project) -> None:
    project.set_samples({"a": Path("typo.fa"), "b": Path("b.fa")})
    after = run(project)
    assert after.code == 1
    assert after.problems == {"samples.tsv: sample a: typo.fa: no such file"}


def test_archived_files_and_jobs_that_are_forced(project: Project) -> None:
    EDITS["a.fa archived"].apply(project)
    before = contents(project)
    done = project.run("--forcerun", "chunk")
    assert done.returncode == 0, done.stdout
    assert contents(project) == before and jobs(project.run().stdout) == {}


def test_a_file_target_of_a_broken_sample_fails_each_time(project: Project) -> None:
    EDITS["a.fa broken"].apply(project)
    target = "results/a/contigs.tsv"
    assert [project.run(target).returncode for _ in range(2)] == [1, 1]


def test_a_sample_with_a_name_like_a_file_of_the_results(project: Project) -> None:
    project.set_samples({"report_html": Path("a.fa")})
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert project.paths.sample("report_html").tsv("contigs").exists()


def test_r7_the_next_run_from_another_folder(project: Project, finished: Project) -> None:
    """Names of files do not matter, only their content: nothing is chunked or embedded again."""
    above = copy.copy(project)
    above.folder = project.folder.parent
    above.settings |= {"samples": "p/samples.tsv", "results": "p/results", "bundle": "p/bundle"}
    rows = "".join(f"{name}\tp/{name}.fa\n" for name in project.samples)
    (project.folder / "samples.tsv").write_text("sample\tpath\n" + rows)
    done = above.run()
    assert done.returncode == 0, done.stdout
    assert jobs(done.stdout) == {"report": 1, "check": 1}
    assert project.tables() == finished.tables()
    page = project.paths.report.page.read_text()
    assert "p/a.fa" in page and "p/b.fa" in page
    assert jobs(above.run().stdout) == {}


def test_r8_an_empty_file_beside_another_sample(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    (tmp_path / "neg.fa").touch()
    project.set_samples({"a": Path("a.fa"), "neg": Path("neg.fa")})
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert len(read_tsv(project.paths.sample("a").tsv("contigs"))) == len(LENGTHS["a"])
    assert read_tsv(project.paths.sample("neg").tsv("contigs")) == []
    assert json.loads(project.paths.report.multiqc_summary.read_text())["data"]["neg"] == {
        "contigs": 0, "bases": 0, "windows": 0, "windows_called": 0, "contigs_virus": 0
    }  # fmt: skip
    assert jobs(project.run().stdout) == {}


@pytest.mark.parametrize("persistent", [True, False])
def test_r9_a_broken_sample_beside_another(tmp_path: Path, persistent: bool) -> None:
    """The other one is finished; once mended, only the broken one is done."""
    project = new_project(tmp_path, persistent_models=persistent)
    EDITS["a.fa broken"].apply(project)
    after = run(project)
    assert after.code == 1
    said, summary = sorted(after.problems, key=lambda line: line.endswith("finished"))
    assert said.startswith("sample a: a.fa: ")
    assert summary == "error: 1 of 2 samples could not be used; the others are finished"
    assert "Traceback" not in after.output
    assert len(read_tsv(project.paths.sample("b").tsv("contigs"))) == len(LENGTHS["b"])
    assert not project.paths.sample("a").tsv("contigs").exists()
    assert "1 of 2 samples are not in this report" in project.paths.report.page.read_text()
    again = project.run()
    assert again.returncode == 1 and jobs(again.stdout) == {"check": 1}
    assert problems(project, again.stdout) >= {said, summary}
    (project.folder / "a.fa").write_bytes(gzip.compress(b">a\n" + b"ATGGCC" * 100))
    mended = project.run()
    assert mended.returncode == 0, mended.stdout
    assert len(read_tsv(project.paths.sample("a").tsv("contigs"))) == 1


def test_r9_a_cohort_of_one_broken_sample(tmp_path: Path) -> None:
    """Workers have nothing to do, and the one line is that of the sample."""
    project = new_project(tmp_path / "p")
    project.set_samples({"a": Path("a.fa")})
    EDITS["a.fa broken"].apply(project)
    done = project.run()
    assert done.returncode == 1
    assert "Truncated compressed stream" in done.stdout and "is not chunked" not in done.stdout


def test_r10_records_without_bases(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    bases = sequence("q", 600)
    (tmp_path / "a.fa").write_text(f">one\n{bases}\n>none\n>two\n{bases}\n")
    (tmp_path / "b.fq").write_text(f"@none\n\n+\n\n@one\n{bases}\n+\n{'I' * len(bases)}\n")
    project.set_samples({"a": Path("a.fa"), "b": Path("b.fq")})
    done = project.run()
    assert done.returncode == 0, done.stdout
    for sample, names in {"a": ["one", "none", "two"], "b": ["none", "one"]}.items():
        rows = read_tsv(project.paths.sample(sample).tsv("contigs"))
        assert [row["contig"] for row in rows] == names
        none = rows[names.index("none")]
        assert (none["length"], none["windows"]) == ("0", "0")
        assert (none["call"], none["reason"]) == ("no_call", "too_short")


def test_r11_labels_are_shown_and_unmatched_ones_named(project: Project) -> None:
    page = project.paths.report.page
    assert 'id="known"' not in page.read_text()
    edits = (("a0\tvirus", "gone\tvirus", "lost\tvirus"), ("a0\tnon_viral", "a1\tnon_viral"))
    shown = []
    for rows in edits:
        labelled(*rows)(project)
        done = project.run()
        assert jobs(done.stdout) == {"report": 1, "check": 1}
        shown.append(page.read_text().partition('id="known"')[2].partition("</section>")[0])
        line = "2 of 3 ids in its table of labels match no contig: gone, lost"
        is_first = rows == edits[0]
        assert (f"a: {line}" in shown[-1]) == (f"sample a: {line}" in done.stdout) == is_first
    assert "<td>virus</td>" in shown[0] and "<td>non_viral</td>" not in shown[0]
    assert "<td>non_viral</td>" in shown[1] and "<td>virus</td>" not in shown[1]


def test_r12_as_docs_scale_advises(project: Project) -> None:
    """Without embeddings, a new sample: those of the others are not made again."""
    EDITS["delete embeddings"].apply(project)
    EDITS["sample c added"].apply(project)
    done = project.run()
    expected = {"chunk": 1, "serve": 1, "predict": 1, "collect": 1, "report": 1, "check": 1}
    assert (done.returncode, jobs(done.stdout)) == (0, expected), done.stdout
    new = len(project.paths.chunks("c").chunk_files())
    assert embedded_chunks(done.stdout) == len(project.embeddings()) == new > 0


def is_current(project: Project) -> bool:
    """Whether a run would have nothing to do; called in the project's folder."""
    plan = Plan(with_window(check_config(project.settings)), read_sheet(Path("samples.tsv")))
    plan.look()
    report = plan.report()
    return report is not None and report.current() is not None


@pytest.mark.parametrize("damage", [Path.unlink, halve])
def test_r14_no_file_of_the_results_may_be_gone_or_short(
    project: Project, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    assert is_current(project)
    files = list(products(project))
    assert len(files) > 50
    for path in files:
        shutil.copy2(path, "good")
        damage(path)
        assert not is_current(project), path
        shutil.copy2("good", path)
        assert is_current(project), path


def test_r16_status_of_a_run_with_another_config(tmp_path: Path) -> None:
    """From another folder, with the config of the run or its results alone."""
    project = new_project(tmp_path / "p", results="elsewhere")
    project.settings |= {"chunk_size": 3, "bundle": str(BUNDLE)}
    project.settings["samples"] = str(project.folder / "samples.tsv")
    project.set_samples({name: project.folder / f"{name}.fa" for name in "ab"})
    project.settings["results"] = str(tmp_path / "elsewhere")
    assert project.run().returncode == 0
    paths = RunFolder(tmp_path / "elsewhere")
    total = sum(len(paths.chunks(sample).chunk_files()) for sample in "ab")
    for options in (
        ("--configfile", project.folder / "config.yaml"),
        ("--results", tmp_path / "elsewhere"),
    ):
        status = json.loads(rules("status", "--json", *options).stdout)
        assert (status["samples"], status["done"]) == (2, total)
        assert (status["pending"], status["running"], status["failed"]) == (0, 0, 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_r16_every_command_takes_a_config_file(name: str) -> None:
    assert "--configfile" in rules(name, "--help").stdout


def test_a_file_with_a_time_in_the_future(project: Project) -> None:
    """Snakemake fails a job whose input is newer than its output."""
    EDITS["a.fa replaced by future content"].apply(project)
    sheet = project.folder / "samples.tsv"
    os.utime(sheet, (2e9, 2e9))
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert jobs(project.run().stdout) == {}
