"""Two runs on one folder of results: with the same settings or not at all."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import BUNDLE, wait_until

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.planning import lease as module
from virnuc_rules.planning.lease import Lease

HERE = socket.gethostname()
OLD = 3600  # seconds since the last beat


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.of(results=tmp_path / "results", bundle=BUNDLE, chunk_size=30)


@pytest.fixture
def living() -> Iterator[int]:
    """A process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "open(0).read()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def files(config: Config) -> list[str]:
    folder = RunFolder(config.run.results).runs
    return sorted(path.name for path in folder.iterdir())


def other(
    config: Config, pid: int, host: str = HERE, age: float = 0, started: float = 0, **settings: Any
) -> Path:
    """Write what a run in another process has."""
    lease = Lease(config.replace(**settings))
    if host == HERE and not started and psutil.pid_exists(pid):
        started = psutil.Process(pid).create_time()
    path = RunFolder(config.run.results).runs / f"{host}.{pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    run = lease._run.model_copy(update={"host": host, "pid": pid, "started": started})
    path.write_text(run.model_dump_json())
    os.utime(path, (time.time() - age,) * 2)
    return path


def refusal(config: Config) -> str:
    lease = Lease(config)
    with pytest.raises(VirnucError) as raised:
        lease.take()
    assert f"{HERE}.{os.getpid()}.json" not in files(config)  # nor does it keep its own
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_lease_is_taken_and_given_up(config: Config) -> None:
    lease = Lease(config)
    lease.take()
    lease.take()  # twice is once
    assert files(config) == [f"{HERE}.{os.getpid()}.json"]
    lease.give_up()
    lease.give_up()
    assert files(config) == []


def test_two_runs_with_the_same_settings(config: Config, living: int) -> None:
    path = other(config, living)
    lease = Lease(config)
    lease.take()
    assert len(files(config)) == 2
    lease.give_up()
    assert files(config) == [path.name]


def test_another_name_of_the_same_results_is_no_other_setting(
    config: Config, living: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other(config, living)
    monkeypatch.chdir(config.run.results.parent)
    lease = Lease(config.replace(results=Path("results")))
    lease.take()
    lease.give_up()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16"}, "`precision: fp16`, not auto;"),
        ({"chunk_size": 7}, "`chunk_size: 7`, not 30;"),
    ],
)
def test_other_settings_are_refused(
    config: Config, living: int, settings: dict[str, Any], said: str
) -> None:
    path = other(config, living, **settings)
    message = refusal(config)
    assert message.startswith(
        f"{config.run.results}: another run (process {living} on {HERE}) is at work here with "
    )
    assert said in message and message.endswith(f"(is it gone? delete {path})")
    assert files(config) == [path.name]  # what others have stays
    path.unlink()
    lease = Lease(config)
    lease.take()
    lease.give_up()


def test_a_dead_process_has_no_lease(config: Config, dead: int) -> None:
    other(config, dead, precision="fp16")
    Lease(config).check()
    assert files(config) == []


def test_another_process_with_its_id_is_not_it(config: Config, living: int) -> None:
    started = psutil.Process(living).create_time() - 100
    other(config, living, started=started, precision="fp16")
    Lease(config).check()
    assert files(config) == []


def test_a_silent_process_of_this_host_has_its_lease(config: Config, living: int) -> None:
    """It is there: it may only be stopped, or the filesystem was away."""
    other(config, living, age=OLD, precision="fp16")
    assert f"process {living}" in refusal(config)


def test_another_host_has_its_lease_while_it_beats(config: Config) -> None:
    path = other(config, 1, host="node-7", precision="fp16")
    assert "another run (process 1 on node-7)" in refusal(config)
    os.utime(path, (time.time() - OLD,) * 2)
    Lease(config).check()
    assert files(config) == [path.name]  # we cannot know that it is dead: its file is not ours


def test_an_unreadable_file_is_no_run(config: Config) -> None:
    path = other(config, 1, host="node-7", precision="fp16")
    path.write_text("{")
    Lease(config).check()
    assert files(config) == [path.name]


def test_it_beats(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    lease = Lease(config)
    lease.take()
    path = RunFolder(config.run.results).runs / f"{HERE}.{os.getpid()}.json"
    os.utime(path, (0, 0))
    wait_until(lambda: path.stat().st_mtime > 0)
    path.unlink()  # by a user who deletes the results meanwhile
    time.sleep(0.05)
    assert not path.exists()
    lease.give_up()


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
    assert f"queue/runs/{HERE}." in done.stdout
    assert files(config) == []
