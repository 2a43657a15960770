"""What files, names and variables hold reaches a terminal or a log as text, never as a command."""

import io
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, DEMO, Project, rules, run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table

from virnuc_rules.errors import VirnucError, printable
from virnuc_rules.logs import logger, say, start_log
from virnuc_rules.progress import progress
from virnuc_rules.serving.worker_report import WorkerReport
from virnuc_rules.terminal import Terminal

# Sets the title of a window, colours, erases a line; also as one letter (C1), turns text around.
NASTY = "x\x1b]0;gone\x07\x1b[31m\r\x9b2K\u202ey\x7f"
SHOWN = "x\\u001b]0;gone\\u0007\\u001b[31m\\u000d\\u009b2K\\u202ey\\u007f"


def is_clean(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


@given(st.text(), st.sampled_from(["", "\n\t"]))
def test_printable_is_printable_and_json(text: str, keep: str) -> None:
    shown = printable(text, keep)
    assert all(letter.isprintable() or letter in keep for letter in shown)
    assert printable(shown, keep) == shown
    document = json.dumps({text: text}, ensure_ascii=False, indent=1)
    assert json.loads(printable(document, "\n")) == {text: text}


def test_what_can_be_printed_stays() -> None:
    for text in ("", "ß – Ω 中 é", "[red]:smile:[/]", "a\\b"):
        assert printable(text) == text
    assert printable("a\nb\tc", "\n\t") == "a\nb\tc"
    assert printable("\udcff\U000e0001") == "\\udcff\\udb40\\udc01"


def test_an_error_is_one_line() -> None:
    assert str(VirnucError(f"{NASTY}\nnext")) == f"{SHOWN}\\u000anext"
    assert len(str(VirnucError("x" * 400_000))) == 4001


def test_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(tmp_path / "0.log")
    logger.warning("%s\nERROR forged", NASTY)
    logger.debug("Traceback:\n  %s", NASTY)
    assert capsys.readouterr().err == f"{SHOWN}\\u000aERROR forged\n"
    first, second, third = (tmp_path / "0.log").read_text().splitlines()
    assert first.endswith(f"WARNING {SHOWN}\\u000aERROR forged")
    assert second.endswith("DEBUG Traceback:") and third == f"  {SHOWN}"
    logging.getLogger("virnuc_rules").handlers.clear()
    say(f"{NASTY}\n[red]")
    assert capsys.readouterr().out == f"{SHOWN}\n[red]\n"


def test_layouts_of_rich() -> None:
    drawn = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    table = Table(NASTY, title=NASTY)
    table.add_row(f"[red]{NASTY}:smile:[/]")
    drawn.print(Group(table, f"[/x] {NASTY}"), NASTY)
    text = drawn.file.getvalue()  # type: ignore[attr-defined]
    assert text.count(SHOWN) == 5 and f"[red]{SHOWN}:smile:[/]" in text and f"[/x] {SHOWN}" in text
    assert is_clean(text)


def test_the_bar_of_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress(f"chunk {NASTY}", 10) as advance:
        advance(5)
    drawn = capsys.readouterr().err
    assert f"chunk {SHOWN}" in drawn and "\x9b" not in drawn and "\x07" not in drawn


# --- the commands ------------------------------------------------------------------------------


def test_the_status_of_an_odd_worker(tmp_path: Path) -> None:
    project = Project(tmp_path, {"lake": DEMO["lake"]})
    project.command()
    project.paths.worker_reports.mkdir(parents=True)
    now = datetime.now(UTC)
    report = WorkerReport(
        worker=NASTY, owner=NASTY, pid=1, host=NASTY, device=NASTY, precision=NASTY, versions={},
        started=now, updated=now, exit_reason=f"[/x] {NASTY}",
    )  # fmt: skip
    (project.paths.worker_reports / "0.json").write_text(report.model_dump_json())
    command = ("virnuc-rules", "status", "--configfile", "config.yaml")
    table = run(*command, folder=tmp_path, COLUMNS="400")
    assert table.returncode == 0 and is_clean(table.stdout + table.stderr), table.stderr
    assert table.stdout.count(SHOWN) == 4 and f"[/x] {SHOWN}" in table.stdout
    document = run(*command, "--json", folder=tmp_path)
    assert is_clean(document.stdout)
    assert json.loads(document.stdout)["workers"][0]["host"] == NASTY


def test_names_of_files_and_values_of_variables(tmp_path: Path) -> None:
    odd = tmp_path / f"{NASTY}\n.fa"
    done = rules("chunk", odd, "--out", tmp_path / "out")
    assert done.returncode == 1 and is_clean(done.stderr) and f"{SHOWN}\\u000a.fa" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    bundles = tmp_path / "bundles" / f"[red]{NASTY}[b]"
    bundles.mkdir(parents=True)
    (bundles / "bundle.json").write_text((BUNDLE / "bundle.json").read_text())
    done = run("virnuc-rules", "models", "list", folder=tmp_path, COLUMNS="400")
    assert done.returncode == 0 and f"[red]{SHOWN}[b]" in done.stdout and is_clean(done.stdout)
    project = Project(tmp_path / "project")
    project.command()
    options = ("virnuc-rules", "doctor", "--configfile", "config.yaml")
    done = run(*options, folder=project.folder, SLURM_JOB_ID=NASTY, TMPDIR=f"/{NASTY}")
    assert is_clean(done.stdout + done.stderr), done.stdout


def test_the_class_in_a_checkpoint(tmp_path: Path, command: Callable[..., Any]) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(f"c{NASTY}\nevil\n.".encode())
    out = ("--out", tmp_path / "out", "--window", 500)
    networks = ("--dnabert-s", tmp_path, "--esm2", tmp_path, "--classifier", path)
    done = command("models", "prepare", *networks, *out)
    assert done.returncode == 1 and is_clean(done.stderr) and len(done.stderr.splitlines()) == 1
