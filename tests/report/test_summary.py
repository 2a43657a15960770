"""A row for each sample, also for those without tables; the same counts as in the tables."""

from pathlib import Path

import pandas as pd
import pytest
from harness import REPO
from reporting import add_fasta, make_results

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.report.page import write_report
from virnuc_rules.report.summary import COLUMNS
from virnuc_rules.vocabulary import Call


def test_each_sample_has_a_row(tmp_path: Path) -> None:
    contigs = {"lake": 40, "gut": 0}
    config = make_results(tmp_path, contigs)
    run = RunFolder(config.run.results)
    add_fasta(run.results, contigs)
    config.inputs.samples.write_text("sample\tpath\nlake\tl.fa\nbad\tb.fa\ngut\tg.fa\n")
    write_report(config, run.report.page)
    text = run.report.summary.read_text()
    table = pd.read_csv(run.report.summary, sep="\t", index_col="sample")
    assert text.splitlines()[0].split("\t") == [table.index.name, *table.columns] == list(COLUMNS)
    assert table.index.tolist() == ["lake", "bad", "gut"]  # as in the sheet
    assert "chunk" in table.loc["bad", "problem"] and table.loc["bad"].drop("problem").isna().all()
    of_lake = pd.read_parquet(run.sample("lake").parquet("contigs"))
    windows = pd.read_parquet(run.sample("lake").parquet("windows"))
    for call in Call:
        assert table.loc["lake", f"contigs_{call}"] == (of_lake["call"] == call).sum() > 0
        assert table.loc["lake", f"windows_{call}"] == (windows["call"] == call).sum()
    called = of_lake[of_lake["call"] != Call.NO_CALL]
    fraction = (called["call"] == Call.VIRUS).mean()
    assert table.loc["lake", "viral_fraction"] == pytest.approx(fraction, rel=1e-5)
    assert table.loc["lake", "bases"] == of_lake["length"].sum()
    assert table.loc["lake", "regions"] == len(
        pd.read_parquet(run.sample("lake").parquet("regions"))
    )
    assert table.loc["gut", ["contigs", "regions", "windows"]].tolist() == [0, 0, 0]


def test_columns_are_documented_in_their_order() -> None:
    section = (REPO / "docs/outputs.md").read_text().partition("## summary.tsv\n")[2]
    rows = [line.split(" | ") for line in section.partition("\n## ")[0].splitlines()]
    documented = [row[0].strip("| `") for row in rows if row[0].startswith("| `")]
    assert documented == list(COLUMNS)
