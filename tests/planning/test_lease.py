"""Two runs on one folder of results: with the same settings or not at all."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, wait_until

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.planning import lease as module
from virnuc_rules.planning.lease import Lease

DEAD = 0.5  # seconds


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.02)
    monkeypatch.setattr(module, "_DEAD", DEAD)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.of(results=tmp_path / "results", bundle=BUNDLE, chunk_size=30)


def files(config: Config) -> list[Path]:
    return sorted(RunFolder(config.run.results).runs.iterdir())


@contextmanager
def other(config: Config, **settings: Any) -> Iterator[Path]:
    """A run that is at work, as another process would be: by its file and its beats."""
    lease = Lease(config.replace(**settings))
    lease.take()
    try:
        yield lease._path
    finally:
        lease.give_up()


def killed(config: Config, **settings: Any) -> Path:
    """What a run in this very process id, of this very host, leaves if it is killed."""
    with other(config, **settings) as path:
        return Path(shutil.copy(path, path.with_name("killed.json")))


def refusal(config: Config) -> str:
    before = files(config)
    with pytest.raises(VirnucError) as raised:
        Lease(config).take()
    assert files(config) == before  # nor does it keep its own
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_lease_is_taken_and_given_up(config: Config) -> None:
    lease = Lease(config)
    lease.take()
    lease.take()  # twice is once
    assert files(config) == [lease._path]
    lease.give_up()
    lease.give_up()
    assert files(config) == []


def test_two_runs_with_the_same_settings(config: Config) -> None:
    with other(config) as path:
        lease = Lease(config)
        lease.take()
        assert files(config) == sorted([path, lease._path])
        lease.give_up()


def test_another_name_of_the_same_results_is_no_other_setting(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.run.results.parent)
    with other(config), other(config, results=Path("results")):
        assert len(files(config)) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16"}, "`precision: fp16`, not auto;"),
        ({"chunk_size": 7}, "`chunk_size: 7`, not 30;"),
    ],
)
def test_other_settings_are_refused(config: Config, settings: dict[str, Any], said: str) -> None:
    with other(config, **settings) as path:
        message = refusal(config)
        assert message.startswith(
            f"{config.run.results}: another run (process {os.getpid()} on {os.uname().nodename}) "
            "is at work here with "
        )
        assert said in message
        assert files(config) == [path]  # what others have stays
    lease = Lease(config)
    lease.take()
    lease.give_up()


def test_a_killed_run_is_forgotten_after_a_while(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its host nor its process id says that it is dead: containers share both."""
    path, begun = killed(config, precision="fp16"), time.monotonic()
    os.utime(path, (0, 0))  # whatever the time of the filesystem
    Lease(config).check()
    assert time.monotonic() - begun > DEAD and files(config) == []
    (said,) = caplog.messages
    assert said.startswith(f"{config.run.results}: is another run (process ")


def test_a_killed_run_with_the_same_settings_is_not_waited_for(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    path = killed(config)
    Lease(config).check()
    assert files(config) == [path] and caplog.messages == []


def test_one_that_ends_meanwhile_is_not_waited_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEAD", 600)
    path = killed(config, precision="fp16")
    threading.Timer(0.2, path.unlink).start()
    Lease(config).check()


def test_time_in_which_the_observer_stood_still_is_not_counted(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped for longer than a run may be silent; the other was not."""
    path, sleep = killed(config, precision="fp16"), time.sleep

    def stopped(seconds: float) -> None:
        sleep(2 * DEAD)
        os.utime(path)

    monkeypatch.setattr(time, "sleep", stopped)
    assert "`precision: fp16`" in refusal(config)


def test_a_file_without_settings_is_no_run(config: Config) -> None:
    path = killed(config, precision="fp16")
    path.write_text("{")
    Lease(config).check()
    assert files(config) == [path]


def test_a_lease_of_deleted_results_does_not_make_them_again(config: Config) -> None:
    with other(config) as path:
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 0)
        path.unlink()
        time.sleep(0.1)
        assert not path.exists()


def test_a_process_that_ends_gives_it_up(config: Config) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from virnuc_rules.config.model import Config\n"
        "from virnuc_rules.planning.lease import Lease\n"
        "Lease(Config.of(results=Path(sys.argv[1]))).take()\n"
        "print(*Path(sys.argv[1]).rglob('*.json'))\n"
    )
    command = [sys.executable, "-c", script, str(config.run.results)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "queue/runs/" in done.stdout
    assert files(config) == []
