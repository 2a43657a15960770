"""Settings and paths as users give them: refused at once where wrong, else taken as they are."""

import json
from pathlib import Path
from typing import Any

import pytest
from chunk_folders import some_contigs
from harness import BUNDLE, DEMO, REPO, Project, rules, run, wait_until

MODULE = """
module virnuc:
    snakefile: "{repo}/workflow/Snakefile"
    config: {{"samples": "samples.tsv", "bundle": "{bundle}"}}
    prefix: "elsewhere"

use rule * from virnuc as virnuc_*
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return some_contigs(tmp_path / "small.fa", DEMO["gut"], slice(4, 6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 300}, "window: 300, but virnuc-untrained is for windows of 500 bases"),
        ({"results": "out{1}"}, "config: results: Snakemake takes braces for wildcards"),
        ({"prevalence": 2}, "config: prevalence: auto, or a number above 0 and below 1"),
        ({"max_fdr": 0.05}, "max_fdr: bundle virnuc-untrained has no model of contigs"),
        ({"thread": 1}, "config: thread: no such key; did you mean `threads`?"),
    ],
)
def test_wrong_settings_are_said_before_anything_runs(
    tmp_path: Path, small: Path, settings: dict[str, Any], message: str
) -> None:
    project = Project(tmp_path / "p", {"a": small}, **settings)
    done = project.run("--dry-run")
    assert done.returncode == 1
    assert message in done.stdout and "Traceback" not in done.stdout
    assert sorted(path.name for path in project.folder.iterdir() if path.name[0] != ".") == [
        "config.yaml", "samples.tsv"
    ]  # fmt: skip


def test_a_module_takes_no_prefix(tmp_path: Path, small: Path) -> None:
    (tmp_path / "Snakefile").write_text(MODULE.format(repo=REPO, bundle=BUNDLE))
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\na\t{small}\n")
    done = run("snakemake", "--cores", 1, "--dry-run", folder=tmp_path)
    assert done.returncode == 1
    assert "VirNuc as a module takes no `prefix:`; set `results:`" in done.stdout + done.stderr


def test_another_run_with_other_settings_is_refused(tmp_path: Path, small: Path) -> None:
    project = Project(tmp_path / "p", {"a": small}, precision="fp32")
    first = project.start()
    wait_until(lambda: list(project.paths.runs.glob("*.json")) or first.poll() is not None)
    project.settings["precision"] = "auto"
    other = project.run("--dry-run")
    output, _ = first.communicate(timeout=200)
    assert first.returncode == 0, output
    assert other.returncode == 1 and "Traceback" not in other.stdout
    assert "is at work here with `precision: fp32`, not auto; wait for its end" in other.stdout
    assert not list(project.paths.runs.iterdir())
    later = project.run("--dry-run")
    assert later.returncode == 0, later.stdout
    assert "plan: 0 of 1 samples are up to date\n" in later.stdout
    assert "other precision)\n" in later.stdout


def test_paths_are_data_and_a_run_knows_its_settings(tmp_path: Path, small: Path) -> None:
    """Names with dashes, brackets and quotes; the home folder; the shipped bundle; `status`."""
    folder = tmp_path / "p"
    (folder / "run[1]").mkdir(parents=True)
    (folder / "-dash.fa").write_bytes(small.read_bytes())
    (folder / "run[1]" / "it's $(x).fa").write_bytes(small.read_bytes())
    samples = {"dash": Path("-dash.fa"), "odd": Path("run[1]/*.fa")}
    project = Project(folder, samples, results="~/out", batch_tokens=4096)
    del project.settings["bundle"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        done = project.run()
    assert done.returncode == 0, done.stdout
    results = tmp_path / "out"
    for sample in samples:
        assert (results / sample / "windows.tsv").stat().st_size > 1000
    assert (results / "report.html").exists()
    # With the default `batch_tokens` nothing would be done; the file of the run says what it was.
    status = json.loads(rules("status", "--json", "--results", results).stdout)
    assert (status["samples"], status["pending"], status["failed"]) == (2, 0, 0)
    assert status["done"] > 0
    nowhere = rules("status", "--results", tmp_path / "nowhere")
    assert nowhere.returncode == 1 and nowhere.stdout == ""
    assert f"error: {tmp_path}/nowhere: no such folder" in nowhere.stderr


def test_a_command_says_where_its_settings_are_from(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("chunk_size: 7\n")
    (tmp_path / "a.fa").write_text(">a\nATGGCC\n")
    command = ["virnuc-rules", "chunk", "a.fa", "--out", "out", "--window", "300"]
    for words, source in (([], "defaults"), (["--configfile", "mine.yaml"], "mine.yaml")):
        done = run(*command, *words, folder=tmp_path)
        assert done.returncode == 0
        assert done.stderr.splitlines()[0] == f"settings: {source}"
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("of_another_workflow: 1\n")
    options = ["--chunk-size=7", "--genetic-code=4", "--duplicate-ids=error"]
    done = run(*command, *options, folder=tmp_path)
    assert done.returncode == 0 and "settings" not in done.stderr  # as in jobs: no file matters
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["chunking"]["chunk_size"], manifest["chunking"]["window"]) == (7, 300)
