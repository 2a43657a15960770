"""Training and evaluation through the real workflow: the same chunks and workers as any sample."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO
from Bio.SeqFeature import SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord
from harness import REPO, Project, jobs, read_tsv, rules, run, sha256, spoil
from labelled import write_fasta, write_sheet

from virnuc_rules.config.model import Calibrating, Config, LabelledSettings
from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.models.card import ContigModel, read_card
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.training import commands
from virnuc_rules.training.dataset import read_rows
from virnuc_rules.training.labelled import Labelled, read_labelled
from virnuc_rules.training.split import PARTS, part_of
from virnuc_rules.vocabulary import Label

SETTINGS: dict[str, Any] = {
    "samples": "labelled.tsv", "trained_bundle": "trained", "chunk_size": 100, "hidden": 16,
    "max_epochs": 30, "learning_rate": 0.003, "dropout": 0.1, "seed": 3,
}  # fmt: skip
OPTIONS = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items()
           if key not in ("samples", "chunk_size", "hidden")]  # fmt: skip


def labelled_project(folder: Path, **settings: Any) -> Project:
    write_sheet(folder)
    samples = {label: folder / f"{label}.fa" for label in ("virus", "non_viral")}
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


def bundle_files(folder: Path) -> dict[str, str]:
    """sha256 of each file, but for the one that only says that all are up to date."""
    return {p.name: sha256(p) for p in folder.iterdir() if p.name != "evaluation.done"}


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
    assert base.demo and not card.demo  # nor the numbers of the other classifier
    assert base.name in card.description and base.description not in card.description
    assert card.sha256["classifier.safetensors"] != base.sha256["classifier.safetensors"]
    assert all(sha256(folder / name) == value for name, value in card.sha256.items())
    assert card.training is not None
    assert card.training.seed == 3
    assert {(each.sample, each.file): each.sha256 for each in card.training.data} == {
        (name, str(path)): sha256(path) for name, path in trained.samples.items()
    }
    assert card.training.tables == {
        str(path): sha256(path) for path in trained.folder.glob("*.groups.tsv")
    }
    groups = [f"{label}_genome_{n}" for label in ("virus", "non_viral") for n in range(20)]
    counts = {part: sum(part_of(group, 3) == part for group in groups) for part in PARTS}
    assert card.training.groups == counts
    assert card.calibration is not None
    assert card.calibration.classifier == card.sha256["classifier.safetensors"]


def test_it_is_evaluated_on_groups_that_it_has_not_seen(trained: Project) -> None:
    found = evaluation(trained.folder / "trained/evaluation.json")
    assert found["part"] == "test"
    assert found["trained_on"] == found["calibrated_on"] == []
    alone = found["without_homologs"]  # there are none
    assert alone["homologs"] == {"non_viral": 0, "virus": 0}
    for level in ("windows", "contigs"):
        assert alone[level] == {**found[level], "by_group": []}
    names = {subset["name"] for subset in found["windows"]["by_group"]}
    expected = {f"{label}_genome_{n}" for label in ("virus", "non_viral") for n in range(20)}
    assert names == {group for group in expected if part_of(group, 3) == "test"}
    assert found["windows"]["ranking"]["auroc"] > 0.9
    assert found["contigs"]["ranking"]["auroc"] > 0.9
    page = (trained.folder / "trained/evaluation.html").read_text()
    assert "its test part" in page
    assert page.count("<svg") == 3 and page.rindex("<svg") < page.index("<table>")  # curves first
    assert "viral ones among those called virus" in page
    ids = re.findall(r'<[^>]* id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_rows_are_those_of_the_chunks(trained: Project) -> None:
    """Counts of the card, from the tables on disk and nothing else."""
    card = read_card(trained.folder / "trained")
    assert card.training is not None
    counts = {part: {"non_viral": 0, "virus": 0} for part in ("train", "validation")}
    for label in ("virus", "non_viral"):
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
    assert len(called) >= 12 > len(windows) - len(called) > 0
    assert all((row["probability"] == "") == (row["call"] == "no_call") for row in windows)
    viral = [float(row["probability"]) for row in called if row["call"] == "virus"]
    expected = 1 - sum(viral) / len(viral)
    page = (project.results / "report.html").read_text()
    assert f"{100 * expected:.1f} %<br><small>n = {len(viral)}</small>" in page
    assert 'id="known"' in page
    summary = json.loads((project.results / "multiqc/virnuc_summary_mqc.json").read_text())
    assert summary["data"]["mixed"]["expected_false"] == pytest.approx(100 * expected, abs=0.01)
    calls = SampleCalls.model_validate_json((project.results / "mixed/calls.json").read_bytes())
    assert calls.windows and calls.windows.expected_fdr == pytest.approx(expected, abs=1e-4)
    assert (calls.windows.called, calls.windows.virus) == (len(called), len(viral))
    # Another prevalence: the same scores and calls of windows, other probabilities.
    project.settings["prevalence"] = 0.05
    planned = jobs(project.run("--dry-run").stdout)
    assert planned == {"predict": 1, "collect": 1, "report": 1, "all": 1}
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


OLDER = ContigModel(
    intercept=0, coefficients={"open_fraction": 1.0}, longest=500,
    pieces=dict.fromkeys(Label, 1), log_loss={}, reached={},
)  # fmt: skip


@pytest.mark.parametrize("contigs", [None, OLDER], ids=["none", "of other features"])
def test_calibrating_again_changes_nothing_but_the_calibration(
    trained: Project, tmp_path: Path, contigs: ContigModel | None
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained.folder / "trained", bundle)
    before = read_card(bundle)
    assert before.calibration is not None
    older = contigs and before.calibration.model_copy(update={"contigs": contigs})
    rewrite_card(bundle, calibration=older)
    done = verb(trained, "calibrate", bundle=bundle)
    assert done.returncode == 0, done.stderr
    assert read_card(bundle) == before
    done = verb(trained, "calibrate", "--part", "all", bundle=bundle)
    assert done.returncode == 1
    assert "its classifier was trained on a part of" in done.stderr
    assert read_card(bundle) == before
    assert verb(trained, "calibrate", "--part", "test", bundle=bundle).returncode == 0
    page = tmp_path / "page.html"
    done = verb(trained, "evaluate", "--part", "test", "--out", page, bundle=bundle)
    assert "the calibration was fitted to a part of" in done.stderr
    assert len(evaluation(page.with_suffix(".json"))["calibrated_on"]) == 2


@pytest.mark.parametrize("of_all", [False, True], ids=["viral contigs", "contigs of both"])
def test_a_calibration_leaves_homologs_out_where_something_is_left(
    trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, of_all: bool,
) -> None:  # fmt: skip
    def mark(settings: LabelledSettings, labelled: Labelled, parts: set[str]) -> Labelled:
        assert parts == {"train"}
        samples = [
            replace(
                sample,
                homolog=(np.arange(len(sample.part)) % 2 == 0) & bool(sample.label or of_all),
            )
            for sample in labelled.samples
        ]
        return replace(labelled, samples=samples)

    bundle = tmp_path / "bundle"
    shutil.copytree(trained.folder / "trained", bundle)
    before = read_card(bundle).calibration
    monkeypatch.setattr(commands, "with_homologs", mark)
    config = Config.of(
        samples=trained.folder / "labelled.tsv", results=trained.results, bundle=bundle, seed=3
    )
    after = commands.calibrate(
        config.part(LabelledSettings), config.part(Calibrating), "validation"
    )
    assert before and after
    is_warned = "there is too little else" in caplog.text
    if of_all:  # 11 windows of cells are too few to leave some out
        assert after == before and is_warned
    else:
        assert not is_warned
        assert after.windows[Label.NON_VIRAL] == before.windows[Label.NON_VIRAL]
        assert 10 <= after.windows[Label.VIRUS] < before.windows[Label.VIRUS]


def test_to_calibrate_or_move_it_is_no_reason_to_train_again(
    trained: Project, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path, trained.samples)
    project.settings = trained.settings
    assert jobs(project.run("train", "--dry-run").stdout) == {}
    bundle = tmp_path / "trained"
    before = sha256(bundle / "bundle.json")
    done = verb(project, "calibrate", "--part", "test", bundle=bundle)
    assert done.returncode == 0, done.stderr
    assert sha256(bundle / "bundle.json") != before
    assert jobs(project.run("train", "--dry-run").stdout) == {}
    # A file that was cut is one.
    classifier = bundle / "classifier.safetensors"
    os.truncate(classifier, classifier.stat().st_size - 1)
    assert jobs(project.run("train", "--dry-run").stdout) == {"train": 1}


def test_an_evaluation_of_what_it_was_trained_on_says_so(trained: Project, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    bundle = trained.folder / "trained"
    done = verb(trained, "evaluate", "--out", page, bundle=bundle)
    assert done.returncode == 0, done.stderr
    assert "was trained on a part of" in done.stderr
    assert "Not held out" in page.read_text()
    assert "Not known: the sequences are not held out" in page.read_text()
    assert len(evaluation(page.with_suffix(".json"))["trained_on"]) == 2
    done = verb(trained, "evaluate", "--out", page, "--part", "test", bundle=bundle)
    assert "was trained on" not in done.stderr
    assert (
        evaluation(page.with_suffix(".json"))["windows"]
        == (evaluation(trained.folder / "trained/evaluation.json")["windows"])
    )

    done = verb(trained, "evaluate", "--out", page, "--part", "test", "--seed", 4, bundle=bundle)
    # Another test part: the options of the right one are said.
    assert "/virus.fa, with --seed 3\n" in done.stderr
    done = verb(trained, "evaluate", "--out", tmp_path / "page.json", bundle=bundle)
    assert done.returncode == 1
    assert "give a name that ends in .html" in done.stderr


def test_another_split_of_the_same_files_is_not_held_out(trained: Project, tmp_path: Path) -> None:
    """The same sheet without its groups: other contigs are the test part."""
    sheet, page = tmp_path / "labelled.tsv", tmp_path / "page.html"
    lines = [f"{name}\t{path}\t{name}\n" for name, path in trained.samples.items()]
    sheet.write_text("sample\tpath\tlabel\n" + "".join(lines))
    bundle = trained.folder / "trained"
    options = {"sheet": sheet, "bundle": bundle}
    done = verb(trained, "evaluate", "--out", page, "--part", "test", **options)
    assert done.returncode == 0, done.stderr
    found = evaluation(page.with_suffix(".json"))
    assert len(found["trained_on"]) == len(found["calibrated_on"]) == 2
    done = verb(trained, "calibrate", **options)
    assert done.returncode == 1
    assert "its classifier was trained on a part of" in done.stderr


def test_the_evaluation_is_that_of_the_tables(trained: Project, tmp_path: Path) -> None:
    """Counts of the test part, from what `predict` writes with the same bundle."""
    found = evaluation(trained.folder / "trained/evaluation.json")
    for label in ("virus", "non_viral"):
        out = tmp_path / label
        rules(
            "predict", "--sample", label, "--out", out, "--results", trained.results,
            "--bundle", trained.folder / "trained", check=True,
        )  # fmt: skip
        for level in ("windows", "contigs"):
            rows = [
                row for row in read_tsv(out / f"{level}.tsv")
                if part_of(f"{label}_genome_{int(row['contig'].split('_')[-1]) // 3}", 3) == "test"
            ]  # fmt: skip
            calls = [row["call"] for row in rows]
            assert found[level]["counts"][label] == {
                "total": len(rows),
                "called": len(rows) - calls.count("no_call"),
                "called_virus": calls.count("virus"),
                "failed": 0,
            }
    no_calls = [c["total"] - c["called"] for c in found["windows"]["counts"].values()]
    assert sum(no_calls) > 0


def test_what_fails_leaves_the_bundle_that_is_there(trained: Project, tmp_path: Path) -> None:
    project = labelled_project(tmp_path)
    assert project.run("train").returncode == 0
    before = bundle_files(tmp_path / "trained")
    project.settings["learning_rate"] = 1e30
    done = project.run("train")
    assert done.returncode != 0
    assert "the loss is not finite" in done.stdout
    assert bundle_files(tmp_path / "trained") == before
    project.settings |= {"learning_rate": 0.003, "max_per_label": 50, "hidden": 8}
    assert jobs(project.run("train", "--dry-run").stdout) == {"train": 1}
    assert project.run("train").returncode == 0
    training = read_card(tmp_path / "trained").training
    assert training is not None
    assert training.open_frames["train"] == {"non_viral": 50, "virus": 50}
    # To use it is no reason to make it again, nor a cycle.
    project.settings["bundle"] = str(tmp_path / "trained")
    planned = project.run("--dry-run").stdout
    assert "CyclicGraph" not in planned
    assert "train" not in jobs(planned)
    # Another table of groups is another split.
    project.settings["bundle"] = trained.settings["bundle"]
    groups = tmp_path / "virus.groups.tsv"
    groups.write_text(groups.read_text().replace("virus_genome_1\n", "virus_genome_one\n"))
    assert jobs(project.run("train", "--dry-run").stdout) == {"train": 1}
    sheet = tmp_path / "labelled.tsv"
    sheet.write_text(sheet.read_text().replace("label", "lable"))
    done = project.run("train")
    assert done.returncode != 0
    assert "a column 'label' is needed" in done.stdout  # before anything runs


def test_without_persistent_models_it_is_the_same_classifier(
    trained: Project, tmp_path: Path
) -> None:
    project = labelled_project(tmp_path, persistent_models=False)
    done = project.run("train")
    assert done.returncode == 0, done.stdout
    name = "trained/classifier.safetensors"
    assert sha256(tmp_path / name) == sha256(trained.folder / name)


def test_embeddings_stay_on_the_disk(trained: Project) -> None:
    config = Config.of(
        samples=trained.folder / "labelled.tsv", results=trained.results,
        bundle=Path(trained.settings["bundle"]), seed=3,
    )  # fmt: skip
    run = config.part(LabelledSettings)
    rows = read_rows(run, read_labelled(run), "train", "validation")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [
        tuple(int(end, 16) for end in line[0].split("-"))
        for line in maps if line[-1].endswith(".safetensors")
    ]  # fmt: skip
    for part in rows.values():
        for block in part.blocks:
            for tensor in (block.dnabert_s, block.esm2):
                assert any(low <= tensor.data_ptr() < high for low, high in mapped)


def test_a_damaged_result_is_mended_by_the_next_run(trained: Project, tmp_path: Path) -> None:
    project = labelled_project(tmp_path)
    assert project.run("train").returncode == 0
    spoil(next(iter((project.results / "embeddings").glob("*/*.safetensors"))))
    project.settings["hidden"] = 8
    done = project.run("train")
    assert done.returncode != 0
    assert "run the same snakemake command again to embed them" in done.stdout
    assert project.run("train").returncode == 0


def test_a_damaged_network_does_not_become_a_good_one(trained: Project, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained.settings["bundle"], bundle)
    spoil(bundle / "esm2.safetensors")
    done = verb(trained, "train", f"--trained-bundle={tmp_path / 'out'}", bundle=bundle)
    assert done.returncode == 1
    assert "esm2.safetensors: damaged" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_group_is_in_one_part_and_a_file_has_one_label(trained: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labelled.tsv"
    virus, non_viral = trained.samples.values()
    header = "sample\tpath\tlabel\tgroup\tpart\n"
    out = f"--trained-bundle={tmp_path / 'out'}"
    sheet.write_text(
        f"{header}virus\t{virus}\tvirus\tone\ttrain\nnon_viral\t{non_viral}\tnon_viral\tone\ttest\n"
    )
    done = verb(trained, "train", out, sheet=sheet)
    assert done.returncode == 1
    assert "group one is in two parts, train and test; keep a group together" in done.stderr
    both = tmp_path / "both.fa"
    shutil.copy(virus, both)
    rules(
        "chunk",
        both,
        "--out",
        tmp_path / "results/chunks/non_viral",
        "--sample",
        "non_viral",
        check=True,
    )
    shutil.copytree(trained.results / "chunks/virus", tmp_path / "results/chunks/virus")
    sheet.write_text(f"{header}virus\t{virus}\tvirus\t\t\nnon_viral\t{both}\tnon_viral\t\t\n")
    done = verb(trained, "train", out, "--results", tmp_path / "results", sheet=sheet)
    assert done.returncode == 1
    assert "both.fa has both labels; give it one" in done.stderr


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
    other = tmp_path / "published"
    shutil.copytree(trained.settings["bundle"], other)
    done = verb(trained, "train", f"--trained-bundle={other}")
    assert done.returncode == 1
    assert "is a bundle that `train` did not make" in done.stderr
    assert read_card(other) == read_card(Path(trained.settings["bundle"]))


def test_a_part_without_a_label_is_one_line(trained: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labelled.tsv"
    lines = [f"{name}\t{path}\t{name}\ttrain\n" for name, path in trained.samples.items()]
    sheet.write_text("sample\tpath\tlabel\tpart\n" + "".join(lines))
    done = verb(trained, "train", *OPTIONS, f"--trained-bundle={tmp_path / 'out'}", sheet=sheet)
    assert done.returncode == 1
    assert "no open frame of label non_viral in the validation part" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_annotation_keeps_the_frames_inside_of_coding_sequences(
    trained: Project, tmp_path: Path
) -> None:
    """Viral contigs annotated on one strand, the other, or not at all; all are evaluated."""
    strands, records = {}, []
    for number, record in enumerate(SeqIO.parse(trained.samples["virus"], "fasta")):
        strand = strands[record.id] = (1, -1, 0)[number % 3]
        made = SeqRecord(record.seq, id=record.id, name=record.id)
        made.annotations["molecule_type"] = "DNA"
        if strand:
            place = SimpleLocation(0, len(record.seq), strand)
            made.features = [SeqFeature(place, "CDS", qualifiers={"codon_start": "1"})]
        records.append(made)
    lengths = {record.id: len(record.seq) for record in records}
    genbank, sheet, out = (tmp_path / name for name in ("virus.gb", "labelled.tsv", "out"))
    SeqIO.write(records, genbank, "genbank")

    rows = ["sample\tpath\tlabel\tgroups\tgenbank\n"]
    for name, path in trained.samples.items():
        groups, annotation = path.with_suffix(".groups.tsv"), genbank if name == "virus" else ""
        rows.append(f"{name}\t{path}\t{name}\t{groups}\t{annotation}\n")
    sheet.write_text("".join(rows))
    options = (*OPTIONS, "--hidden=16", f"--trained-bundle={out}")
    done = verb(trained, "train", *options, sheet=sheet)
    assert done.returncode == 0, done.stderr
    expected = {"train": 0, "validation": 0, "test": 0}
    for path in (trained.results / "chunks/virus").glob("chunk_*.parquet"):
        for row in pq.read_table(path).to_pylist():
            contig, strand = row["contig"], strands[row["contig"]]
            end = lengths[contig] - row["end"] if strand < 0 else row["start"]
            coding = strand == {"F": 1, "R": -1}[row["frame"][0]] and end % 3 == 0
            expected[part_of(f"virus_genome_{int(contig.split('_')[1]) // 3}", 3)] += coding
    now, then = (read_card(folder).training for folder in (out, trained.folder / "trained"))
    assert now is not None
    assert then is not None
    for part in ("train", "validation"):
        assert now.open_frames[part]["virus"] == expected[part] > 0
        assert now.open_frames[part]["non_viral"] == then.open_frames[part]["non_viral"]
    counts = [
        evaluation(folder / "evaluation.json")["windows"]["counts"]["virus"]["total"]
        for folder in (out, trained.folder / "trained")
    ]
    assert counts[0] == counts[1]
    SeqIO.write(records[1:], genbank, "genbank")
    done = verb(trained, "train", *options, sheet=sheet)
    assert done.returncode == 1
    assert 'virus.gb: no record "virus_0", which' in done.stderr


def test_evaluate_of_two_files_by_make(trained: Project, tmp_path: Path) -> None:
    """`make evaluate BUNDLE=… POS=… NEG=…`, as the README has it."""
    positives = write_fasta(tmp_path / "pos.fa", "virus", 10, seed=5)
    negatives = write_fasta(tmp_path / "neg.fa", "non_viral", 10, seed=5)
    venv = tmp_path / "venv"  # what is installed already
    venv.mkdir()
    (venv / "installed").touch()
    done = run(
        "make", "evaluate", f"VENV={venv}", f"BUNDLE={trained.folder / 'trained'}",
        f"POS={positives}", f"NEG={negatives}", f"OUT={tmp_path / 'evaluated'}", folder=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = evaluation(tmp_path / "evaluated/evaluation.json")
    assert found["part"] == "all"
    assert found["trained_on"] == []
    assert found["contigs"]["counts"]["virus"]["total"] == 10
    assert found["windows"]["ranking"]["auroc"] > 0.9
    assert (tmp_path / "evaluated/evaluation.html").exists()
