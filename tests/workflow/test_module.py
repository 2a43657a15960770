"""The workflow as a module of another one."""

from pathlib import Path

from harness import BUNDLE, DEMO, REPO, run

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
