"""The commands of the fork server end, read, write and die as the real ones."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness import DEMO, Project, fork_server, forked_environment, run, wait_until

pytestmark = pytest.mark.skipif(os.environ.get("VIRNUC_FORK") == "0", reason="not used")


def forked(client: int) -> list[psutil.Process]:
    """The process of a client, which runs in the client's folder."""
    here = psutil.Process(client).cwd()
    server = psutil.Process(fork_server().pid)
    return [child for child in server.children() if child.cwd() == here]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A command that waits for its standard input."""
    command = ["virnuc-rules", "chunk", "-", "--out", "out", "--window", "300"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        command, cwd=tmp_path, env=forked_environment(), text=True, **pipes
    ) as process:
        wait_until(lambda: (tmp_path / "out").exists() or list(tmp_path.glob(".out*")))
        yield process
        process.kill()


def test_files_folder_arguments_and_codes(tmp_path: Path) -> None:
    (tmp_path / "a file.fa").write_text(">a\nATGGCC\n")
    command = ("virnuc-rules", "chunk", "a file.fa", "--window", 300, "--sample", "", "--out")
    done = run(*command, "out", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "1 contigs" in done.stderr and (tmp_path / "out/manifest.json").exists()
    assert run(*command, "out", "--wrong", folder=tmp_path).returncode == 2
    failed = run("virnuc-rules", "chunk", "none.fa", "--out", "out", folder=tmp_path)
    assert failed.returncode == 1 and "error: " in failed.stderr
    assert run("snakemake", "--version").stdout.startswith("9.")


def test_standard_input(waiting: "subprocess.Popen[str]") -> None:
    _, errors = waiting.communicate(">a\nATGGCC\n", timeout=60)
    assert waiting.returncode == 0 and "stdin: 1 files, 1 contigs" in errors


def test_it_is_a_process_and_its_client_is_killed(waiting: "subprocess.Popen[str]") -> None:
    (process,) = forked(waiting.pid)
    waiting.kill()
    assert waiting.wait(timeout=60) == -signal.SIGKILL
    wait_until(lambda: not process.is_running())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_both(waiting: "subprocess.Popen[str]", number: int) -> None:
    (process,) = forked(waiting.pid)
    process.send_signal(number)
    assert waiting.wait(timeout=60) == -number


def test_a_signal_is_passed_on(waiting: "subprocess.Popen[str]") -> None:
    waiting.terminate()
    assert waiting.wait(timeout=60) == -signal.SIGTERM


def test_a_worker_finds_its_snakemake(tmp_path: Path) -> None:
    """It stops when the client is killed, as it does when Snakemake is."""
    project = Project(tmp_path, {"lake": DEMO["lake"]}, chunk_size=5)
    first = project.start(forked=True)
    wait_until(lambda: len(project.embeddings()) > 1)
    first.kill()
    wait_until(lambda: not project.workers())
    first.communicate(timeout=200)
    assert project.report()["exit_reason"] == "Snakemake is gone"
