"""The workflow as a module of another one: written by hand, and by `virnuc-rules init`."""

from pathlib import Path

from harness import BUNDLE, DEMO, REPO, read_tsv, run

SNAKEFILE = """
module virnuc:
    snakefile: "{repo}/workflow/Snakefile"
    config: {{"samples": "mine.tsv", "bundle": "{bundle}", "threads": 1, "results": "found"}}

use rule * from virnuc as virnuc_*

rule count:
    default_target: True
    input: "found/lake/windows.tsv"
    output: "count.txt"
    shell: "wc -l < {{input}} > {{output}}"
"""


def test_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(repo=REPO, bundle=BUNDLE))
    (tmp_path / "mine.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    done = run("snakemake", "--cores", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    windows = (tmp_path / "found" / "lake" / "windows.tsv").read_text().splitlines()
    assert int((tmp_path / "count.txt").read_text()) == len(windows) > 100


def test_a_new_project(tmp_path: Path) -> None:
    """What a new user types in an empty folder: init, the line that it prints, explain."""
    begun = run("virnuc-rules", "init", "my project", *sorted(DEMO.values()), folder=tmp_path)
    assert begun.returncode == 0, begun.stderr
    (line,) = begun.stdout.splitlines()
    done = run("bash", "-c", line, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    project = tmp_path / "my project"
    assert (project / "results/report.html").is_file()
    for sample in DEMO:
        contigs = read_tsv(project / "results" / sample / "contigs.tsv")
        assert len(contigs) > 20
        done = run("virnuc-rules", "explain", contigs[-1]["contig"], folder=project)
        assert done.returncode == 0, done.stderr
        assert f"(sample {sample}, contig_index {len(contigs) - 1})" in done.stdout
    again = run("virnuc-rules", "init", "my project", folder=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == (
        "error: my project/config/config.yaml exists: nothing was written; take another folder\n"
    )
