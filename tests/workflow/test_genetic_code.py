"""A run with another genetic code: other windows have calls, and VirNucPro's files are not made."""

from pathlib import Path

from chunk_folders import write_fasta
from harness import Project, jobs, read_tsv, rules

RECODED = "TGAATTAAATTAATTTAT" * 40  # open with code 4 only, in one frame
CONTIGS = {"recoded": RECODED, "plain": "ATGGCCAAGGAC" * 50}
VIRNUCPRO = {"prediction_results.txt", "prediction_results_highestscore.csv"}


def files(project: Project) -> dict[str, bytes]:
    """The files of the sample but for those that say when they were made."""
    folder = project.paths.sample("a").path
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.name: p.read_bytes() for p in found if p.name not in ("made.json", "done")}


def called(project: Project) -> set[str]:
    rows = read_tsv(project.paths.sample("a").tsv("windows"))
    return {row["contig"] for row in rows if row["call"] != "no_call"}


def finish(project: Project, code: int) -> dict[str, int]:
    project.settings["genetic_code"] = code
    done = project.run()
    assert done.returncode == 0, done.stdout
    return jobs(done.stdout)


def test_from_code_1_to_4_and_back(tmp_path: Path) -> None:
    project = Project(tmp_path, {"a": write_fasta(tmp_path / "a.fa", CONTIGS)})
    finish(project, 1)
    first = files(project)
    assert called(project) == {"plain"} and set(first) > VIRNUCPRO
    finish(project, 4)
    second = files(project)
    assert called(project) == {"plain", "recoded"}
    assert set(second) == set(first) - VIRNUCPRO
    assert finish(project, 4) == {} and files(project) == second
    table = project.paths.sample("a").tsv("contigs").relative_to(tmp_path)
    asked = project.run("--dry-run", str(table))
    assert asked.returncode == 0, asked.stdout
    assert project.run("--dry-run", str(table.parent / min(VIRNUCPRO))).returncode != 0
    embeddings = project.embeddings()
    finish(project, 1)
    assert files(project) == first
    assert project.embeddings() == embeddings  # the chunk is as it was: nothing is embedded


def test_the_fasta_of_virnucpro_is_refused(tmp_path: Path) -> None:
    source, upstream = write_fasta(tmp_path / "a.fa", CONTIGS), tmp_path / "upstream"
    words = ("chunk", source, "--out", tmp_path / "out", "--upstream-fasta", upstream)
    done = rules(*words, "--window", 500, "--genetic-code", 11)
    assert done.returncode == 1 and not upstream.exists() and not (tmp_path / "out").exists()
    assert done.stderr == (
        "error: --upstream-fasta: VirNucPro knows only genetic_code 1; leave it out\n"
    )
