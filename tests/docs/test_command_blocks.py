"""Every command of 'Quick start' and of the pages 'By hand', as a user types it in a fresh clone.

Only the installation is not done again: what stands for it is in INSTALLATION. `make` did it before
the tests.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import BIN, REPO, environment, fork_server

BEGIN = "git clone <this repository> virnuc && cd virnuc"
INSTALLATION = {  # a line of a page: what is run for it
    BEGIN: 'git clone --quiet "$REPOSITORY" virnuc && cd virnuc && ln -s "$ENVIRONMENT" .venv',
    "pip install -c constraints.txt -e .": "test -s constraints.txt -a -s pyproject.toml",
    "conda env create -f environment.yml": "test -s environment.yml",
}
BLOCK = re.compile(r"^( *)```bash\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.skipif(not shutil.which("git"), reason="no git: apt-get install git"),
    pytest.mark.timeout(1800),  # several runs in one test, on a machine that may be busy
]


def section(page: str, title: str = "") -> str:
    """Return the text of a page, or of one of its sections."""
    text = (REPO / page).read_text()
    return (
        re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
        if title
        else text
    )


def blocks(text: str) -> list[str]:
    """Return the command blocks of a text; those in lists are indented."""
    return [textwrap.dedent(block) for _, block in BLOCK.findall(text)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A repository to clone, of the files as they are now, and an environment with VirNuc.

    Its commands are those of the tests' fork server: their library is this checkout's.
    """
    folder = tmp_path_factory.mktemp("prepared")
    git = ["git", f"--git-dir={folder / 'repository'}", f"--work-tree={REPO}"]
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*author, "commit", "--quiet", "-m", "now"],
    ):
        subprocess.run([*git, *words], check=True)
    venv = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    forked = os.environ.get("VIRNUC_FORK") != "0"
    commands = fork_server().folder if forked else BIN
    for name in ("snakemake", "virnuc-rules"):
        script = venv / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{commands / name}" "$@"\n')
        script.chmod(0o755)
    (venv / "installed").touch()
    later = (venv / "installed").stat().st_mtime + 10**6  # than the files that the clone will have
    os.utime(venv / "installed", (later, later))
    return {"REPOSITORY": str(folder / "repository"), "ENVIRONMENT": str(venv)}


def typed(text: str, folder: Path, prepared: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command blocks of a text, up to the first command that fails."""
    script = "\n".join(["set -eo pipefail", *blocks(text)])
    for line, instead in INSTALLATION.items():
        script = script.replace(line, instead)
    return subprocess.run(
        ["bash", "-v", "-c", script],
        cwd=folder,
        env={**environment(), **prepared},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1700,
    )


def in_the_folder(text: str) -> str:
    """Put before a text what its reader has done: cloned, and activated the environment."""
    return f"```bash\n{BEGIN}\nsource .venv/bin/activate\n```\n{text}"


def test_quick_start(tmp_path: Path, prepared: dict[str, str]) -> None:
    text = section("docs/quickstart.md")
    assert all(f"{line}\n" in text for line in INSTALLATION)
    done = typed(text, tmp_path, prepared)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "virnuc/demo/results/report.html").is_file()
    assert (tmp_path / "virnuc/my_run/results/report.html").is_file()
    assert "\ncontig\tlength\tprobability\tcall\n" in done.stdout
    assert "\nsample\tcontigs\tcontigs_virus\n" in done.stdout
    assert done.stdout.count("\nNothing to be done (") == 2  # in later runs of the demo


def test_own_data_by_hand(tmp_path: Path, prepared: dict[str, str]) -> None:
    done = typed(in_the_folder(section("docs/own_data.md", "By hand")), tmp_path, prepared)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "virnuc/results/report.html").is_file()
    assert "2 samples, 63 contigs" in done.stdout  # `estimate` of the demo, which the sheet names


def test_single_commands(tmp_path: Path, prepared: dict[str, str]) -> None:
    done = typed(in_the_folder(section("docs/by_hand.md")), tmp_path, prepared)
    assert done.returncode == 0, done.stdout
    results = tmp_path / "virnuc/results"
    assert {path.parent.name for path in results.glob("*/contigs.tsv")} == {"lake", "gut"}
    assert (results / "viruses.tsv").is_file() and (results / "report.html").is_file()
    assert list((tmp_path / "virnuc/upstream_fasta").iterdir())


@pytest.mark.parametrize(
    "wrong", ["virnuc-rules chunk --no-such-option", "ls demo/results", "false | true"]
)
def test_a_wrong_command_is_found(tmp_path: Path, prepared: dict[str, str], wrong: str) -> None:
    done = typed(in_the_folder(f"```bash\n{wrong}\necho more\n```\n"), tmp_path, prepared)
    assert done.returncode != 0
    assert "\nmore\n" not in done.stdout


def test_no_command_is_outside_of_a_command_block() -> None:
    texts = [
        section("docs/quickstart.md"),
        section("docs/by_hand.md"),
        section("docs/own_data.md", "By hand"),
    ]
    for text in texts:
        rest = BLOCK.sub("", text)
        assert not re.search(r"^ *(virnuc-rules|snakemake|make|pip|git|cd) ", rest, re.MULTILINE)
        assert "```" not in rest


def test_the_front_page_begins_like_the_quick_start() -> None:
    assert blocks(section("README.md")) == blocks(section("docs/quickstart.md"))[:1]
