"""`init`: a folder that runs as it is, and what it does not overwrite."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from harness import DEMO, forked_environment, jobs, rules

from virnuc_rules.config.document import json_schema
from virnuc_rules.config.model import Config, check_config
from virnuc_rules.config.new_project import new_project, sample_names
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.errors import VirnucError


def test_the_printed_line_runs(tmp_path: Path) -> None:
    folder = tmp_path / "a run of mine"
    lake = tmp_path / "lake.fa"
    lake.write_text(">a\n" + "ATGGCC" * 100 + "\n>b\n" + "TTAACTAACTAG" * 30 + "\n")
    done = rules("init", folder, lake, DEMO["gut"])
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"cd {shlex.quote(str(folder))} && snakemake ")
    settings = {"shell": True, "env": forked_environment(), "text": True, "capture_output": True}
    planned = subprocess.run(f"{line} --dry-run --quiet host", check=False, **settings)  # type: ignore[call-overload]
    assert jobs(planned.stdout)["predict"] == 2
    ran = subprocess.run(f"{line} results/lake/contigs.tsv", check=False, **settings)  # type: ignore[call-overload]
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len((folder / "results/lake/contigs.tsv").read_text().splitlines()) == 3


def test_what_is_there_is_left(tmp_path: Path) -> None:
    new_project(tmp_path / "p", [])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) > 5
    with pytest.raises(VirnucError, match=r"exists already; .* nothing was written"):
        new_project(tmp_path / "p", [])
    with pytest.raises(VirnucError, match=r"x\.fa: no such file"):
        new_project(tmp_path / "q", [tmp_path / "x.fa"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(VirnucError, match=r"samples\.tsv: no samples; add a line"):
        read_sheet(tmp_path / "p/config/samples.tsv")


def test_settings_of_reads(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("s_R1.fastq.gz", "s_R2.fastq.gz", "c.fa")]
    for path in files:
        path.touch()
    new_project(tmp_path / "p", files)
    text = (tmp_path / "p/config/config.yaml").read_text()
    config: Config = check_config(yaml.safe_load(text))
    first, _, _ = text.partition("\n")
    assert json.loads(Path(first.partition("$schema=")[2]).read_text()) == json_schema()
    assert config.chunking.duplicate_ids == "keep" and (config.run.bundle / "bundle.json").exists()
    assert config.run.results == Path("results")
    sheet = read_sheet(tmp_path / "p/config/samples.tsv")
    assert sheet.samples == {"s": files[:2], "c": files[2:]}
    pair = [tmp_path / name for name in ("s_R1.fa", "s_R2.fa")]
    for path in pair:
        path.touch()
    for name, given, ids in (("q", pair, "keep"), ("r", pair[:1], "error")):
        new_project(tmp_path / name, given)
        assert f"duplicate_ids: {ids}\n" in (tmp_path / name / "config/config.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a{b}.fa", "Snakemake takes braces for wildcards"),
        ("a\tb.fa", "a sheet cannot hold this name"),
        ("a.fa ", "a sheet cannot hold this name"),
    ],
)
def test_a_name_that_a_sheet_cannot_hold(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(VirnucError, match=problem) as raised:
        new_project(tmp_path / "p", [tmp_path / name])
    assert "\n" not in str(raised.value) and not (tmp_path / "p").exists()


def test_names_with_letters_of_patterns(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a [1]*.fa", "a 1x.fa", "~.fa")]
    for path in files:
        path.touch()
    new_project(tmp_path / "p", files)
    samples = read_sheet(tmp_path / "p/config/samples.tsv").samples
    assert samples == {"a__1__": files[:1], "a_1x": files[1:2], "sample": files[2:]}


def test_snakemake_takes_the_new_snakefile(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text("rule mine:\n")
    with pytest.raises(VirnucError, match="Snakefile exists already"):
        new_project(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["Snakefile"]


def test_names_of_samples() -> None:
    names = {
        "a/x_R1_001.fastq.gz": "x", "a/x_R2_001.fastq.gz": "x",
        "b/x.fa": "x_2", "c/x.fna.bz2": "x_3",  # others of the same name
        "k_1.fa": "k_1",  # its mate is not there
        "d/k_2.fa": "k_2",
        "m.1.fq": "m", "m.2.fq": "m",
        "bin_1.fa": "bin_1", "bin_2.fa": "bin_2", "lake-1.fq": "lake-1", "lake-2.fq": "lake-2",
        "r_R1.fa": "r", "r_R2.fa": "r", "s_R1.fq": "s_R1", "s_R2.fa": "s_R2",
        "L1_R1_001.fq": "L1", "L1_R2_001.fq": "L1", "L1_R1_002.fq": "L1_2", "L1_R2_002.fq": "L1_2",
        "chunks.fa": "chunks_2", "report.html.fa": "report.html_2",  # VirNuc's own names
        "-größe 5.fa": "gr__e_5", ".fa": "sample", "v1.2.fasta.xz": "v1.2",
    }  # fmt: skip
    assert sample_names([Path(name) for name in names]) == {Path(n): s for n, s in names.items()}
