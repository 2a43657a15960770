"""One table of the viral sequences of all samples: every contig and region, with its bases."""

import gzip
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from harness import REPO, read_tsv
from reporting import add_fasta, make_results

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.errors import ResultError
from virnuc_rules.report.viruses import SCHEMA, write_viruses
from virnuc_rules.vocabulary import Call

CONTIGS = {"lake": 40, "gut": 30, "none": 0}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = make_results(tmp_path, CONTIGS)
    add_fasta(config.run.results, CONTIGS)
    return RunFolder(config.run.results)


def collect(run: RunFolder) -> pd.DataFrame:
    rows = write_viruses(run.results, read_sheet(run.results.parent / "samples.tsv"))
    table = pd.read_parquet(run.viruses.parquet)
    assert len(table) == len(read_tsv(run.viruses.tsv)) == rows
    return table


def fasta(path: Path) -> dict[str, str]:
    text = "\n" + gzip.decompress(path.read_bytes()).decode()
    records = [record.partition(" more\n") for record in text.split("\n>")[1:]]
    found = {name: bases.strip() for name, _, bases in records}
    assert len(found) == len(records)
    return found


def test_every_viral_contig_and_region_is_a_row(run: RunFolder) -> None:
    table = collect(run)
    for sample in CONTIGS:
        contigs = pd.read_parquet(run.sample(sample).parquet("contigs"))
        regions = pd.read_parquet(run.sample(sample).parquet("regions"))
        rows = table[table["sample"] == sample]
        whole, parts = rows[rows["region"].isna()], rows[rows["region"].notna()]
        viral = contigs[contigs["call"] == Call.VIRUS]
        assert whole["contig"].tolist() == viral["contig"].tolist()
        assert whole["end"].tolist() == whole["length"].tolist() == viral["length"].tolist()
        assert parts["region"].tolist() == list(range(1, len(regions) + 1))
        for name in ("contig_index", "contig", "start", "end", "windows", "posterior"):
            assert parts[name].tolist() == regions[name].tolist()
        calls = contigs.set_index("contig_index")["call"]
        assert parts["call"].tolist() == calls[regions["contig_index"]].tolist()
        assert rows["contig_index"].is_monotonic_increasing
    assert set(table[table["region"].notna()]["call"]) == set(Call)  # of contigs of each call
    assert pq.read_schema(run.viruses.parquet).names == SCHEMA.names


def test_each_row_names_a_sequence_that_is_there_once(run: RunFolder) -> None:
    table, sequences = collect(run), fasta(run.viruses.fasta)
    assert set(table["sequence"]) == sequences.keys()
    for row in table.itertuples():
        folder, is_virus = run.sample(row.sample), row.call == Call.VIRUS
        one_based = f"{row.contig}:{row.start + 1}-{row.end}"
        own = row.contig if is_virus else one_based
        source = folder.viral_fasta if is_virus else folder.region_fasta
        assert row.sequence == f"{row.sample}|{own}"
        assert sequences[row.sequence] == fasta(source)[own]


def test_tables_of_other_tools_and_what_became_of_their_rows(run: RunFolder) -> None:
    before = collect(run)
    lake = before[before["sample"] == "lake"]
    (one, two), gone = lake["contig"].unique()[:2], "nobody"
    contigs = pd.read_parquet(run.sample("lake").parquet("contigs"))
    plain = contigs[~contigs["contig"].isin(lake["contig"])]["contig"].iloc[0]
    folder = run.results.parent
    (folder / "lake.tsv").write_text(
        f"id\tfamily\n{one}\tMicroviridae\n{two}\tInoviridae\n{plain}\tX\n{gone}\tY\n"
    )
    (folder / "all.tsv").write_text(f"id\tcomplete\nlake|{one}\t100\ngut|nothing\t0\n")
    rows = "".join(
        f"{sample}\t{sample}.fa\t{folder / 'lake.tsv' if sample == 'lake' else ''}\t"
        f"{folder / 'all.tsv'}\n"
        for sample in CONTIGS
    )
    (folder / "samples.tsv").write_text(f"sample\tpath\tannotations\tannotations_cv\n{rows}")
    table = collect(run)
    pd.testing.assert_frame_equal(table[SCHEMA.names], before)
    known = table.set_index(["sample", "contig"])
    assert set(known.loc[[("lake", one)], "annotations.family"]) == {"Microviridae"}
    assert set(known.loc[[("lake", one)], "cv.complete"]) == {"100"}
    assert set(known.loc[[("lake", two)], "annotations.family"]) == {"Inoviridae"}
    named = table["annotations.family"].notna()
    assert set(table[named]["contig"]) == {one, two} and table["cv.complete"].notna().any()
    counts = {(row["sample"], row["annotations"]): row for row in read_tsv(run.viruses.annotations)}
    found = counts["lake", "annotations"]
    of_rows = [found[name] for name in ("rows", "joined", "not_viral", "unmatched")]
    assert of_rows == ["4", "2", "1", "1"]
    assert [counts["gut", "cv"][name] for name in ("rows", "unmatched")] == ["1", "1"]


def test_one_table_knows_a_region_and_another_its_contig(run: RunFolder) -> None:
    """geNomad was given the contigs, CheckV viruses.fa.gz."""
    before = collect(run)
    region = before[before["call"] != Call.VIRUS].iloc[0]
    folder = run.results.parent
    (folder / "g.tsv").write_text(f"seq_name\ttaxonomy\n{region.contig}\tInoviridae\n")
    (folder / "c.tsv").write_text(f"contig_id\tcompleteness\n{region.sequence}\t61.2\n")
    rows = "".join(f"{name}\tx.fa\t{folder}/g.tsv\t{folder}/c.tsv\n" for name in CONTIGS)
    header = "sample\tpath\tannotations_genomad\tannotations_checkv\n"
    (folder / "samples.tsv").write_text(header + rows)
    table = collect(run)
    known = table[table["sequence"] == region.sequence].iloc[0]
    assert (known["genomad.taxonomy"], known["checkv.completeness"]) == ("Inoviridae", "61.2")
    assert table["checkv.completeness"].notna().sum() == 1


def test_a_damaged_table_leaves_older_files(run: RunFolder) -> None:
    collect(run)
    before = {path: path.read_bytes() for path in run.viruses.files()}
    path = run.sample("gut").parquet("regions")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ResultError, match=f"^{path}: cannot be read"):
        collect(run)
    assert {path: path.read_bytes() for path in run.viruses.files()} == before
    assert not list(run.results.glob(".*"))


def test_a_damaged_fasta_is_named(run: RunFolder) -> None:
    path = run.sample("gut").viral_fasta
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ResultError, match=f"^{path}: damaged.*; run `predict` again"):
        collect(run)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(ResultError, match=f"^{path}: 0 of [0-9]+ sequences.*run `predict` again"):
        collect(run)


def test_columns_are_documented_in_their_order() -> None:
    section = (REPO / "docs/outputs.md").read_text().partition("## viruses.tsv\n")[2]
    rows = [line.split(" | ") for line in section.partition("\n## ")[0].splitlines()]
    documented = [(row[0].strip("| `"), row[1]) for row in rows if row[0].startswith("| `")]
    assert documented == [(field.name, str(field.type)) for field in SCHEMA]
