"""What `virnuc-rules init` writes; tests/workflow/test_module.py runs it."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from virnuc_rules.config.load import load_config
from virnuc_rules.config.project import begin, name_samples
from virnuc_rules.config.sheet import SAMPLE, read_samples
from virnuc_rules.errors import VirnucError


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(">a\nACGT\n")
    return paths


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        (["lake.fa.gz", "gut.contigs.fastq.ZST"], ["lake", "gut.contigs"]),
        (["a b+c.fa", "-x.fa", "größe.fna", ".fa.gz"], ["a_b_c", "x", "gr_e", "sample"]),
        (["noending", "12.34", "a.txt.gz"], ["noending", "12.34", "a.txt"]),
        (["s1/contigs.fa", "s2/contigs.fa", "s2/x.fa"], ["s1_contigs", "s2_contigs", "x"]),
        (["a.fa", "a.fasta", "a.fa.gz"], ["a", "a_2", "a_3"]),
        (["p/s/c.fa", "q/s/c.fa"], ["s_c", "s_c_2"]),
        (["chunks.fa", "report.html.fa", "logs"], ["chunks_2", "report.html_2", "logs_2"]),
        (["r_R1.fq", "x.fa", "r_R2.fq"], ["r", "x"]),
        (["S1_L001_R2_001.fastq.gz", "S1_L001_R1_001.fastq.gz"], ["S1_L001"]),
        (["SRR1_1.fastq.gz", "SRR1_2.fastq.gz", "SRR2_1.fastq.gz"], ["SRR1", "SRR2_1"]),
        (["bin_1.fa", "bin_2.fa"], ["bin_1", "bin_2"]),
        (["a/r_R1.fq", "b/r_R2.fq"], ["r_R1", "r_R2"]),
        (["a/r_R1.fq", "a/r_R2.fq", "b/r_R1.fq", "b/r_R2.fq"], ["a_r", "b_r"]),
        ([f"{'n' * 120}.fa", f"{'n' * 120}.fna"], ["n" * 80, f"{'n' * 80}_2"]),
    ],
)
def test_names_of_samples(tmp_path: Path, given: list[str], samples: list[str]) -> None:
    paths = files(tmp_path, *given)
    named = name_samples(paths)
    assert list(named) == samples
    assert sorted(path for of in named.values() for path in of) == sorted(paths)
    assert all(re.fullmatch(SAMPLE, name) for name in named)


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths and blanks, letters of patterns, a pair of reads; run from the new folder."""
    monkeypatch.chdir(tmp_path)
    given = files(Path(), "data/a [1]*.fa", "data/a 1x.fa", "data/r_R1.fq", "data/r_R2.fq")
    line = begin(Path("my project"), given)
    words = shlex.split(line)
    assert words[:5] == ["cd", "my project", "&&", "snakemake", "--profile"]
    assert Path(words[5], "config.v9+.yaml").is_file()
    monkeypatch.chdir("my project")
    config, source = load_config(None, {})
    assert source == "config/config.yaml"
    samples = read_samples(config.inputs.samples)
    assert list(samples) == ["a_1", "a_1x", "r"]
    assert [path for of in samples.values() for path in of] == [tmp_path / path for path in given]
    assert config.chunking.duplicate_ids == "keep"
    assert (config.run.bundle / "bundle.json").is_file()
    text = Path("config/config.yaml").read_text()
    assert "DEMO" in text and "models prepare virnucpro-500" in text
    assert len(yaml.safe_load(text)) == 6


def test_in_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert begin(Path(), files(tmp_path, "a.fa")).startswith("snakemake --profile /")
    assert load_config(None, {})[0].chunking.duplicate_ids == "error"


def test_without_files_the_sheet_says_what_is_missing(tmp_path: Path) -> None:
    begin(tmp_path / "p", [])
    with pytest.raises(VirnucError, match="no samples; add a line with a sample and a path"):
        read_samples(tmp_path / "p/samples.tsv")
    assert "lake\t/data/lake.fa.gz" in (tmp_path / "p/samples.tsv").read_text()


@pytest.mark.parametrize(
    ("there", "given", "problem"),
    [
        ("p/samples.tsv", [], "p/samples.tsv exists: nothing was written"),
        ("p/config/config.yaml", [], "config.yaml exists"),
        ("p/workflow/Snakefile", [], "Snakefile exists"),
        ("p/Snakefile", [], "p/Snakefile exists"),
        ("x", ["no.fa"], "no.fa: no such file"),
        ("x", ["p"], "p: no such file"),
        ("x", ["x", "x"], "x: given twice"),
        ("a{b}.fa", ["a{b}.fa"], "Snakemake takes braces for wildcards"),
        ("a\tb.fa", ["a\tb.fa"], "a sheet cannot hold this name"),
        ("a.fa ", ["a.fa "], "a sheet cannot hold this name"),
    ],
)
def test_nothing_is_written(tmp_path: Path, there: str, given: list[str], problem: str) -> None:
    (tmp_path / "p").mkdir()
    files(tmp_path, there)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VirnucError, match=problem) as raised:
        begin(tmp_path / "p", [tmp_path / name for name in given])
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_library_without_the_workflow(tmp_path: Path) -> None:
    """As installed from a wheel."""
    with pytest.raises(VirnucError, match="clone its repository, and name the folder with --check"):
        begin(tmp_path / "p", [], checkout=tmp_path)
    assert not any(tmp_path.iterdir())
