"""Which commands take the settings of the next run, and which those of the last one."""

import contextlib
from pathlib import Path

import pytest
import yaml

from virnuc_rules.cli.main import app
from virnuc_rules.config.load import write_run_config
from virnuc_rules.config.model import Config
from virnuc_rules.errors import VirnucError

NEXT, LAST = "config/config.yaml", "out/config.yaml"


@pytest.mark.parametrize(
    ("command", "source"),
    [
        ("estimate", NEXT),
        ("doctor", NEXT),
        ("status --plan", NEXT),
        ("status --plan --results out", LAST),
        ("status", LAST),
        ("explain contig", LAST),
    ],
)
def test_the_settings_that_a_command_reads(
    command: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After an edit of the config; the samples are missing, so each command ends soon."""
    monkeypatch.chdir(tmp_path)
    write_run_config(Config.of(samples="before.tsv", results="out"))
    (tmp_path / "config").mkdir()
    edited = {"samples": "after.tsv", "results": "out"}
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(edited))
    with contextlib.suppress(VirnucError):
        app(command.split(), standalone_mode=False)
    assert f"settings: {source}" in capsys.readouterr().err
