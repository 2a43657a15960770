"""What other programs make of a run's report: Snakemake's own, and MultiQC's."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import Project, read_tsv

MULTIQC = shutil.which("multiqc")


def test_snakemake_makes_its_report(undisturbed: Project, tmp_path: Path) -> None:
    done = undisturbed.run("--report", str(tmp_path / "run.html"))
    assert done.returncode == 0, done.stdout
    page = (tmp_path / "run.html").read_text()
    for said in (
        "The fractions of contigs called virus, called non-viral",  # a caption
        "Provenance", "Figures",  # categories
        "scores of windows", "the whole report",  # labels
        "How to read the calls.", "are in the folder of the results",  # the introduction
    ):  # fmt: skip
        assert said in page
    for name in ("report.html", "provenance.json", "scores.svg", "calls.svg"):
        assert f"Adding {name}" in done.stdout


def test_provenance_names_what_was_run(undisturbed: Project) -> None:
    found = json.loads((undisturbed.results / "provenance.json").read_text())
    verb, outer = found["commands"]
    assert " report --out " in verb and "snakemake" in outer and "--profile" in outer
    assert found["config"]["chunk_size"] == 40 and found["config"]["lease_seconds"] == 2
    assert found["chunking"]["lake"]["chunk_size"] == 40
    assert {i["sample"] for i in found["inputs"]} == {"lake", "gut"}
    assert all(len(i["sha256"]) == 64 for i in found["inputs"])
    assert [(c["device"], c["precision"]) for c in found["computed"]] == [("cpu", "fp32")]


@pytest.mark.skipif(not MULTIQC, reason="no MultiQC: pip install multiqc, in a venv of its own")
def test_multiqc_shows_our_sections(undisturbed: Project, tmp_path: Path) -> None:
    command = [str(MULTIQC), "--quiet", "--outdir", str(tmp_path), str(undisturbed.results)]
    subprocess.run(command, check=True, timeout=300)
    page = (tmp_path / "multiqc_report.html").read_text()
    assert "Calls of contigs" in page and "viral sequences in metagenomes" in page
    calls = read_tsv(tmp_path / "multiqc_data" / "multiqc_virnuc_calls_plot.txt")
    table = read_tsv(tmp_path / "multiqc_data" / "multiqc_virnuc_summary_table.txt")
    for found in (calls, table):
        assert {row["Sample"] for row in found} == {"lake", "gut"}
    for row in calls:
        contigs = read_tsv(undisturbed.results / row["Sample"] / "contigs.tsv")
        for call in ("virus", "non_viral", "no_call"):
            assert float(row[call]) == sum(contig["call"] == call for contig in contigs)
