"""The workflow as a user runs it, on the demo samples."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from chunk_folders import manifest_of
from harness import DEMO, REPO, Project, jobs, read_tsv, run, sha256

from virnuc_rules.serving.worker import CHUNKS_BETWEEN_CLEARINGS


def planned(project: Project, *arguments: str) -> dict[str, int]:
    """What a dry run says that would be done: number of jobs by rule."""
    return jobs(project.run("--dry-run", *arguments).stdout)


def test_one_worker_loads_once_for_many_chunks_of_two_samples(undisturbed: Project) -> None:
    report = undisturbed.report()
    assert report["load_count"] == {"dnabert_s": 1, "esm2": 1}
    assert report["chunks"] == undisturbed.chunks() == len(undisturbed.embeddings()) > 20
    assert report["cache_clears"] == report["chunks"] // CHUNKS_BETWEEN_CLEARINGS
    assert len(report["memory"]) == report["chunks"]
    assert report["open_frames"] == sum(
        len((undisturbed.results / s / "orfs.tsv").read_text().splitlines()) - 1
        for s in undisturbed.samples
    )
    assert undisturbed.left_over() == []


def test_second_run_has_nothing_to_do(undisturbed: Project) -> None:
    said = undisturbed.run("--dry-run").stdout
    assert jobs(said) == {}
    assert said.endswith("plan: 2 of 2 samples are up to date\nplan: to embed: 0 chunks\n")


def test_without_persistent_models_the_same_bytes(undisturbed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path, persistent_models=False, chunk_size=250)
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert not list((project.results / "queue" / "workers").iterdir())
    reference = Project(tmp_path / "persistent", chunk_size=250)
    assert reference.run().returncode == 0
    keys = project.embeddings().keys()
    assert keys == reference.embeddings().keys() and len(keys) == project.chunks()
    for key in keys:
        name = Path("embeddings", key[:2], f"{key}.safetensors")
        assert sha256(project.results / name) == sha256(reference.results / name)
    assert project.tables() == reference.tables()


def test_two_workers_split_the_chunks(undisturbed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path, workers=2, chunk_size=40)
    project.chunk()
    workers = [project.serve(number, forked=True) for number in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    shares = [project.report(number)["chunks"] for number in range(2)]
    assert sum(shares) == project.chunks() == len(project.embeddings())
    assert min(shares) > 0
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert "serve" not in jobs(done.stdout)  # nothing is left for late workers
    assert project.tables() == undisturbed.tables()


@pytest.mark.parametrize("persistent", [True, False])
def test_a_new_sample_leaves_the_others_alone(tmp_path: Path, persistent: bool) -> None:
    lake = {"lake": DEMO["lake"]}
    project = Project(tmp_path, samples=lake, chunk_size=250, persistent_models=persistent)
    assert project.run().returncode == 0
    before, tables = project.embeddings(), project.tables()
    project.set_samples({**lake, "gut": DEMO["gut"], "copy": DEMO["lake"]})
    embed = {"serve": 1} if persistent else {"chunk_all": 1}
    expected = {"chunk": 2, "predict": 2, "collect": 1, "report": 1, "all": 1}
    assert planned(project) == {**expected, **embed}
    done = project.run()
    assert done.returncode == 0, done.stdout
    after = project.embeddings()
    assert before.items() < after.items()  # not one was made again
    if persistent:
        new = len(after) - len(before)
        assert project.report()["chunks"] == new < project.chunks() - len(before)
    assert tables.items() < project.tables().items()
    assert all(
        project.tables()[name.replace("lake", "copy")] == digest for name, digest in tables.items()
    )


def test_status_reads_a_finished_run(undisturbed: Project) -> None:
    options = ["--json", "--samples", "samples.tsv", "--bundle", undisturbed.settings["bundle"]]
    done = run("virnuc-rules", "status", *options, folder=undisturbed.folder)
    status = json.loads(done.stdout)
    assert status["done"] == undisturbed.chunks()
    assert (status["pending"], status["running"], status["failed"]) == (0, 0, 0)
    assert [worker["working"] for worker in status["workers"]] == [False]


def test_each_viral_row_names_a_sequence_that_is_there(undisturbed: Project) -> None:
    """The names are those that `predict` gives to contigs and regions."""
    files = undisturbed.paths.viruses
    rows = read_tsv(files.tsv)
    text = gzip.decompress(files.fasta.read_bytes()).decode()
    headers = [line for line in text.splitlines() if line.startswith(">")]
    names = [header[1:].split()[0] for header in headers]
    assert len(set(names)) == len(names) and set(names) == {row["sequence"] for row in rows}
    assert {bool(row["region"]) for row in rows} == {True, False}


def test_mistakes_in_the_config_are_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path, windwo=300)
    done = project.run()
    assert done.returncode != 0
    assert "config: windwo: no such key; did you mean `window`?" in done.stdout
    assert "Traceback" not in done.stdout
    project = Project(tmp_path, samples={"a": tmp_path / "none.fa"})
    done = project.run()
    assert done.returncode != 0 and "sample a:" in done.stdout and "no such file" in done.stdout
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\tpath\tannotations_a.b\na\t{DEMO['lake']}\tx.tsv\n")
    done = project.run()
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "WorkflowError" in done.stdout and "column 'annotations_a.b': write it" in done.stdout


def test_a_bad_sample_does_not_stop_the_others(tmp_path: Path) -> None:
    """They are finished; the run fails at its end, each time, until the file is mended."""
    bad = tmp_path / "bad.fa"
    bad.write_text(">x\nACGT\n>y\nMKLV\n")
    project = Project(tmp_path, samples={"bad": bad, "lake": DEMO["lake"]}, chunk_size=250)
    problem = f'sample bad: {bad}: record 2 ("y"): illegal letter'
    done = project.run()
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert problem in done.stdout
    assert "1 of 2 samples could not be used; the others are finished" in done.stdout
    assert not project.paths.chunks("bad").manifest.exists()
    assert not project.paths.sample("bad").tsv("windows").exists()
    lake, report = project.paths.sample("lake").tsv("windows"), project.paths.report.page
    assert lake.exists() and report.exists()
    assert planned(project) == {"all": 1}
    again = project.run()
    assert again.returncode != 0 and problem in again.stdout
    bad.write_text(">x\nACGT\n")
    expected = {"chunk": 1, "serve": 1, "predict": 1, "collect": 1, "report": 1, "all": 1}
    assert planned(project) == expected
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert project.paths.sample("bad").tsv("windows").exists()


def test_the_demo_config_is_valid(tmp_path: Path) -> None:
    """Its keys, its sample sheet and the files that it names, as `make demo` reads them."""
    done = run(
        "snakemake", *Project.shown, "--profile", "profiles/local", "--dry-run",
        "--configfile", "demo/config.yaml", "--config", f"results={tmp_path / 'results'}",
        folder=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made_once = {"serve": 1, "collect": 1, "report": 1, "all": 1}
    assert jobs(done.stdout) == {"chunk": 2, "predict": 2, **made_once}


def test_a_sample_of_several_files_of_any_kind(tmp_path: Path) -> None:
    """Paired reads by a pattern, contigs in another row; a file that appears is noticed."""
    data = tmp_path / "data of mine"
    data.mkdir()
    read = b"@r/1 x\n" + b"ATGGCCAAG" * 60 + b"\n+\n" + b"I" * 540 + b"\n"
    for name in ("R1", "R2"):
        (data / f"lake_{name}.fq.xz").write_bytes(lzma.compress(read))
    (data / "more.fa").write_text('>gi|1|"quoted"_chunk_1\n' + "ATGGCC" * 100 + "\n")
    project = Project(tmp_path, duplicate_ids="keep")
    rows = f"lake\t{data}/lake_*.fq.xz\nlake\t{data}/more.fa\n"
    (tmp_path / "samples.tsv").write_text("sample\tpath\n" + rows)
    done = project.run("--until", "chunk")
    assert done.returncode == 0, done.stdout
    manifest = manifest_of(project.results / "chunks" / "lake")
    names = [data / "lake_R1.fq.xz", data / "lake_R2.fq.xz", data / "more.fa"]
    assert (manifest.sources_sha256, manifest.contigs) == (list(map(sha256, names)), 3)
    assert manifest.windows == 6  # 540 or 600 bases: two windows each
    assert "chunk" not in planned(project, "--until", "chunk")
    (data / "lake_R3.fq.xz").write_bytes(lzma.compress(read))
    assert planned(project, "--until", "chunk") == {"chunk": 1}
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\nlake\t{data}/sea_*.fq\nsea\t{data}/s*\n")
    done = project.run()
    assert done.returncode != 0
    # Its files are others now, so what was chunked of the old ones does not stand for them.
    assert f"sample lake: {data}/sea_*.fq: no file matches" in done.stdout
    assert "Traceback" not in done.stdout
