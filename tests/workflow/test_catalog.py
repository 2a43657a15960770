"""The rules of Snakemake's workflow catalog for workflows of standardized usage.

They are in the README of github.com/snakemake/snakemake-workflow-catalog. It also runs
`snakemake --lint` and `snakefmt --check`, as `make check` does.
"""

import json
from pathlib import Path

import yaml
from harness import REPO, jobs, run

from virnuc_rules.config.document import json_schema


def test_what_the_catalog_looks_for_is_there() -> None:
    text = (REPO / "README.md").read_text().lower()
    assert "snakemake" in text and "workflow" in text
    assert (REPO / "workflow/Snakefile").is_file() and not (REPO / "Snakefile").exists()
    assert {path.suffix for path in (REPO / "workflow/rules").iterdir()} == {".smk"}
    assert "# Configuration" in (REPO / "config/README.md").read_text()  # shown on its page


def test_the_settings_of_the_catalog() -> None:
    """A misspelt key would be ignored."""
    settings = yaml.safe_load((REPO / ".snakemake-workflow-catalog.yml").read_text())
    assert settings.keys() == {"usage"}
    usage = settings["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert {key: type(value) for key, value in usage["mandatory-flags"].items()} == {
        "desc": str, "flags": str
    }  # fmt: skip
    deployment = usage["software-stack-deployment"]
    assert deployment.keys() == {"conda", "apptainer", "apptainer+conda", "report"}
    # What `--sdm` installs: all rules name the environment, and none an image.
    rules = [path.read_text() for path in (REPO / "workflow").rglob("*.smk")]
    assert deployment["conda"] is ("conda:" in "".join(rules))
    assert deployment["apptainer"] is deployment["apptainer+conda"] is False
    assert "container:" not in "".join(rules)
    assert usage["report"] is deployment["report"] is True


def test_the_catalog_finds_the_schema() -> None:
    """There and under this name; the first line of the config file names it for editors."""
    schema = json.loads((REPO / "workflow/schemas/config.schema.json").read_text())
    assert schema == json_schema()
    config = REPO / "config/config.yaml"
    first, _, _ = config.read_text().partition("\n")
    named = config.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert named.samefile(REPO / "workflow/schemas/config.schema.json")


def test_the_folder_of_the_test_runs(tmp_path: Path) -> None:
    """`snakemake --directory .test`, in a copy: the results of a real one may be there."""
    (tmp_path / "config").mkdir()
    (tmp_path / "demo").symlink_to((REPO / ".test/demo").resolve(strict=True))
    config = (REPO / ".test/config/config.yaml").read_text()
    (tmp_path / "config/config.yaml").write_text(config)
    command = ("snakemake", "--directory", tmp_path, "--cores", 1, "--dry-run", "--quiet", "host")
    done = run(*command, folder=REPO)
    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout)["predict"] == 2
