"""Training and evaluation through the real workflow: the same chunks and workers as any sample."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import REPO, Project, environment, jobs, read_tsv, rules, sha256
from labelled import write_fasta, write_sheet

from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.models.card import read_card
from virnuc_rules.training.split import PARTS, part_of

SETTINGS: dict[str, Any] = {
    "samples": "labelled.tsv", "trained_bundle": "trained", "chunk_size": 100, "hidden": 16,
    "max_epochs": 30, "learning_rate": 0.003, "dropout": 0.1, "seed": 3,
}  # fmt: skip
OPTIONS = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items()
           if key not in ("samples", "chunk_size", "hidden")]  # fmt: skip


def labelled_project(folder: Path, **settings: Any) -> Project:
    write_sheet(folder)
    samples = {label: folder / f"{label}.fa" for label in ("virus", "others")}
    project = Project(folder, samples)
    project.settings |= {**SETTINGS, **settings}
    return project


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run of `snakemake train`. Do not change it."""
    project = labelled_project(tmp_path_factory.mktemp("trained"))
    done = project.run("train")
    assert done.returncode == 0, done.stdout
    return project


def evaluation(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def verb(
    project: Project, name: str, *options: object, sheet: Path | None = None, bundle: object = None
) -> Any:
    sheet, bundle = sheet or project.folder / "labelled.tsv", bundle or project.settings["bundle"]
    command = (name, "--samples", sheet, "--results", project.results, "--bundle", bundle)
    return rules(*command, "--threads", 1, "--seed", 3, *options)


def test_the_bundle_is_whole_and_says_where_it_comes_from(trained: Project) -> None:
    folder = trained.folder / "trained"
    card = read_card(folder)
    base = read_card(Path(trained.settings["bundle"]))
    assert card.fingerprint == base.fingerprint  # the same embeddings serve
    assert card.sha256["classifier.safetensors"] != base.sha256["classifier.safetensors"]
    assert all(sha256(folder / name) == value for name, value in card.sha256.items())
    assert card.training is not None
    assert card.training.seed == 3
    assert card.training.data["virus"] == {
        str(trained.folder / "virus.fa"): sha256(trained.folder / "virus.fa")
    }
    groups = [f"{label}_genome_{n}" for label in ("virus", "others") for n in range(20)]
    counts = {part: sum(part_of(group, 3) == part for group in groups) for part in PARTS}
    assert card.training.groups == counts
    assert card.calibration is not None
    assert card.calibration.classifier == card.sha256["classifier.safetensors"]


def test_it_is_evaluated_on_groups_that_it_has_not_seen(trained: Project) -> None:
    found = evaluation(trained.folder / "trained/evaluation.json")
    assert found["part"] == "test"
    assert found["trained_on"] == []
    names = {subset["name"] for subset in found["windows"]["by_group"]}
    expected = {f"{label}_genome_{n}" for label in ("virus", "others") for n in range(20)}
    assert names == {group for group in expected if part_of(group, 3) == "test"}
    assert found["windows"]["auroc"] > 0.9
    assert found["contigs"]["auroc"] > 0.9
    page = (trained.folder / "trained/evaluation.html").read_text()
    assert "its test part" in page
    assert "<svg" in page


def test_the_rows_are_those_of_the_chunks(trained: Project) -> None:
    """Counts of the card, from the tables on disk and nothing else."""
    card = read_card(trained.folder / "trained")
    assert card.training is not None
    import pyarrow.parquet as pq

    counts = {part: {"others": 0, "virus": 0} for part in ("train", "validation")}
    for label in ("virus", "others"):
        for path in (trained.results / "chunks" / label).glob("chunk_*.parquet"):
            for contig in pq.read_table(path)["contig"].to_pylist():
                number = int(contig.rpartition("_")[2])
                part = part_of(f"{label}_genome_{number // 3}", 3)
                if part in counts:
                    counts[part][label] += 1
    assert card.training.open_frames == counts


def test_again_there_is_nothing_to_do_and_the_same_file_from_the_start(
    trained: Project, tmp_path: Path
) -> None:
    assert jobs(trained.run("train", "--dry-run").stdout) == {}
    out = tmp_path / "again"
    done = verb(trained, "train", *OPTIONS, "--hidden=16", f"--trained-bundle={out}")
    assert done.returncode == 0, done.stderr
    name = "classifier.safetensors"
    assert sha256(out / name) == sha256(trained.folder / "trained" / name)
    assert read_card(out).calibration == read_card(trained.folder / "trained").calibration


def test_tables_of_a_calibrated_bundle_have_probabilities(trained: Project, tmp_path: Path) -> None:
    sample = {"mixed": write_fasta(tmp_path / "mixed.fa", "virus", 12, seed=9)}
    labels = tmp_path / "known.tsv"
    labels.write_text("id\tlabel\n" + "".join(f"virus_{n}\tvirus\n" for n in range(12)))
    project = Project(tmp_path / "run", sample, bundle=str(trained.folder / "trained"))
    (project.folder / "samples.tsv").write_text(
        f"sample\tpath\tlabels\nmixed\t{sample['mixed']}\t{labels}\n"
    )
    done = project.run()
    assert done.returncode == 0, done.stdout
    windows = read_tsv(project.results / "mixed/windows.tsv")
    called = [row for row in windows if row["call"] != "no_call"]
    assert len(called) >= 12
    assert all((row["probability"] == "") == (row["call"] == "no_call") for row in windows)
    viral = [float(row["probability"]) for row in called if row["call"] == "virus"]
    expected = 1 - sum(viral) / len(viral)
    page = (project.results / "report.html").read_text()
    assert f"{expected:.1%}" in page
    assert 'id="known"' in page
    summary = json.loads((project.results / "multiqc/virnuc_summary_mqc.json").read_text())
    assert summary["data"]["mixed"]["expected_false"] == pytest.approx(100 * expected, abs=0.01)
    # Another prevalence: the same scores and calls, other probabilities.
    project.settings["prevalence"] = 0.05
    planned = jobs(project.run("--dry-run").stdout)
    assert planned == {"predict": 1, "report": 1}
    assert project.run().returncode == 0
    rare = read_tsv(project.results / "mixed/windows.tsv")
    drop = ("probability",)
    assert [{k: v for k, v in row.items() if k not in drop} for row in rare] == [
        {k: v for k, v in row.items() if k not in drop} for row in windows
    ]
    assert all(
        float(now["probability"]) < float(then["probability"])
        for now, then in zip(rare, windows, strict=True)
        if now["probability"] and float(then["probability"]) < 1
    )


def test_calibrating_again_changes_nothing_but_the_calibration(
    trained: Project, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained.folder / "trained", bundle)
    before = read_card(bundle)
    rewrite_card(bundle, calibration=None)
    done = verb(trained, "calibrate", bundle=bundle)
    assert done.returncode == 0, done.stderr
    assert read_card(bundle) == before
    done = verb(trained, "calibrate", "--part", "all", bundle=bundle)
    assert done.returncode == 1
    assert "its classifier was trained on a part of" in done.stderr
    assert read_card(bundle) == before


def test_an_evaluation_of_what_it_was_trained_on_says_so(trained: Project, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    bundle = trained.folder / "trained"
    done = verb(trained, "evaluate", "--out", page, bundle=bundle)
    assert done.returncode == 0, done.stderr
    assert "was trained on a part of" in done.stderr
    assert "Not held out" in page.read_text()
    assert len(evaluation(page.with_suffix(".json"))["trained_on"]) == 2
    done = verb(trained, "evaluate", "--out", page, "--part", "test", bundle=bundle)
    assert "was trained on" not in done.stderr
    assert (
        evaluation(page.with_suffix(".json"))["windows"]
        == (evaluation(trained.folder / "trained/evaluation.json")["windows"])
    )


def test_a_folder_with_other_things_is_left_alone(trained: Project, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    done = verb(trained, "train", *OPTIONS, f"--trained-bundle={out}")
    assert done.returncode == 1
    assert "holds thesis.txt, which no bundle has" in done.stderr
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    done = verb(trained, "train", f"--trained-bundle={trained.settings['bundle']}")
    assert done.returncode == 1
    assert "is the bundle to train with" in done.stderr


def test_a_part_without_a_label_is_one_line(trained: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labelled.tsv"
    lines = [f"{name}\t{path}\t{name}\ttrain\n" for name, path in trained.samples.items()]
    sheet.write_text("sample\tpath\tlabel\tpart\n" + "".join(lines))
    done = verb(trained, "train", *OPTIONS, f"--trained-bundle={tmp_path / 'out'}", sheet=sheet)
    assert done.returncode == 1
    assert "no open frame of label others in the validation part" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_annotation_keeps_the_frames_inside_of_coding_sequences(
    trained: Project, tmp_path: Path
) -> None:
    """Half of the viral contigs annotated: the other half is not trained on, but evaluated."""
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqFeature import SeqFeature, SimpleLocation
    from Bio.SeqRecord import SeqRecord

    records = []
    for number, record in enumerate(SeqIO.parse(trained.folder / "virus.fa", "fasta")):
        cds = SeqFeature(
            SimpleLocation(0, len(record.seq), 1), "CDS", qualifiers={"codon_start": "1"}
        )
        record = SeqRecord(Seq(str(record.seq)), id=record.id, name=record.id)
        record.annotations["molecule_type"] = "DNA"
        record.features = [cds] if number % 2 else []
        records.append(record)
    SeqIO.write(records, tmp_path / "virus.gb", "genbank")
    sheet, out = tmp_path / "labelled.tsv", tmp_path / "out"
    rows = ["sample\tpath\tlabel\tgroups\tgenbank\n"]
    for name, path in trained.samples.items():
        genbank = tmp_path / "virus.gb" if name == "virus" else ""
        rows.append(f"{name}\t{path}\t{name}\t{trained.folder}/{name}.groups.tsv\t{genbank}\n")
    sheet.write_text("".join(rows))
    done = verb(trained, "train", *OPTIONS, "--hidden=16", f"--trained-bundle={out}", sheet=sheet)
    assert done.returncode == 0, done.stderr
    with_annotation, without = (
        read_card(folder).training for folder in (out, trained.folder / "trained")
    )
    assert with_annotation is not None
    assert without is not None
    for part in ("train", "validation"):
        now, then = with_annotation.open_frames[part], without.open_frames[part]
        assert now["others"] == then["others"]
        assert 0 < now["virus"] < 0.75 * then["virus"]
    windows = [
        evaluation(folder / "evaluation.json")["windows"]["counts"]
        for folder in (out, trained.folder / "trained")
    ]
    assert windows[0]["virus"]["total"] == windows[1]["virus"]["total"]


def test_evaluate_of_two_files_by_make(trained: Project, tmp_path: Path) -> None:
    """`make evaluate BUNDLE=… POS=… NEG=…`, as the README has it."""
    positives = write_fasta(tmp_path / "pos.fa", "virus", 10, seed=5)
    negatives = write_fasta(tmp_path / "neg.fa", "others", 10, seed=5)
    venv = tmp_path / "venv"  # what is installed already
    venv.mkdir()
    (venv / "installed").touch()
    done = subprocess.run(
        ["make", "evaluate", f"VENV={venv}", f"BUNDLE={trained.folder / 'trained'}",
         f"POS={positives}", f"NEG={negatives}", f"OUT={tmp_path / 'evaluated'}"],
        cwd=REPO, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = evaluation(tmp_path / "evaluated/evaluation.json")
    assert found["part"] == "all"
    assert found["trained_on"] == []
    assert found["contigs"]["counts"]["virus"]["total"] == 10
    assert found["windows"]["auroc"] > 0.9
    assert (tmp_path / "evaluated/evaluation.html").exists()
