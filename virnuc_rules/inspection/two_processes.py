"""Whether two processes share a queue on the filesystem of the results.

`python -m virnuc_rules.inspection.two_processes FOLDER` is the second one.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.inspection.finding import Finding, Site, scratch
from virnuc_rules.logs import say
from virnuc_rules.queue.claims import Queue

_KEYS = [f"{index:064x}" for index in range(200)]  # tasks that two processes drain together
_HELD = "f" * 64  # key of the claim whose heartbeat this process waits for
_START_TIMEOUT = 120.0  # seconds until the second process must have made its claim


def two_processes(site: Site) -> Iterator[Finding]:
    """Let two processes drain one queue: each task must be claimed by exactly one."""
    with scratch(site.config) as folder:
        command = [sys.executable, "-m", "virnuc_rules.inspection.two_processes", str(folder)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as other:
            try:
                seconds = _wait_for_heartbeat(other, folder, site.config.serving.lease_seconds)
                with replacing(folder / "start") as handle:
                    handle.write("now")
                claimed_here = _drain(folder)
                output, errors = other.communicate(timeout=300)
            finally:
                other.kill()
    claimed_there = output.split()
    claimed = claimed_here + claimed_there
    lost, twice = len(set(_KEYS) - set(claimed)), len(claimed) - len(set(claimed))
    if other.returncode:
        raise VirnucError(f"the other process ended with {other.returncode}: {errors[-300:]}")
    counts = f"{len(_KEYS)} tasks, {len(claimed_here)} and {len(claimed_there)}"
    found = f"{counts}, {lost} lost, {twice} claimed twice"
    remedy = "the filesystem does not make claims exclusive; put `results` on another one"
    heartbeat = f"; a heartbeat is seen after {seconds:.2f} s"
    yield Finding.of("two processes", found + heartbeat, remedy if lost or twice else "", "FAILED")


def _wait_for_heartbeat(
    other: "subprocess.Popen[str]", folder: Path, lease_seconds: float
) -> float:
    """Wait for the second process's claim; return the seconds until its next heartbeat."""

    def wait_for_more_than(content: bytes, seconds: float, what: str) -> bytes:
        end = time.monotonic() + seconds
        while time.monotonic() < end and other.poll() is None:
            if claim.exists() and (now := claim.read_bytes()) != content:
                return now
            time.sleep(0.01)
        if other.poll() is None:
            raise VirnucError(f"{what} of another process was not seen in {seconds:.0f} s")
        raise VirnucError(f"the other process ended: {other.communicate()[1][-300:]}")

    claim = RunFolder(folder).claims / _HELD
    first = wait_for_more_than(b"", _START_TIMEOUT, "the claim")
    begun = time.monotonic()
    wait_for_more_than(first, lease_seconds, "a heartbeat")
    return time.monotonic() - begun


def _second_process(folder: Path) -> list[str]:
    """Hold a claim with heartbeats until the first process writes `start`; then drain the queue."""
    end = time.monotonic() + 2 * _START_TIMEOUT
    with Queue(folder, "doctor", 60) as queue:
        claim = queue.claim(_HELD)
        while claim and not (folder / "start").exists():
            if time.monotonic() > end:
                sys.exit("the first process said nothing")
            claim.beat(queue.pace)
            time.sleep(0.01)
    return _drain(folder)


def _drain(folder: Path) -> list[str]:
    """Claim and publish tasks until none is left; return their keys."""
    done = []
    with Queue(folder, "doctor", 60) as queue:
        for claim in queue.drain(_KEYS):
            queue.publish(claim, Path.touch)
            done.append(claim.key)
    return done


if __name__ == "__main__":
    say("\n".join(_second_process(Path(sys.argv[1]))))
