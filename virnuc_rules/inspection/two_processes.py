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
from virnuc_rules.queue.claims import Queue

_KEYS = [f"{number:064x}" for number in range(200)]  # tasks that two processes share
_BEATING = "f" * 64  # the claim whose heartbeat the one sees of the other
_PATIENCE = 120.0  # seconds until the other process must have shown itself


def two_processes(site: Site) -> Iterator[Finding]:
    """Let two processes drain one queue: each task must be claimed by exactly one."""
    with scratch(site.config) as folder:
        command = [sys.executable, "-m", "virnuc_rules.inspection.two_processes", str(folder)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as other:
            try:
                seconds = _see_a_beat(other, folder, site.config.serving.lease_seconds)
                with replacing(folder / "start") as handle:
                    handle.write("now")
                ours = _drain(folder)
                output, errors = other.communicate(timeout=300)
            finally:
                other.kill()
    theirs = output.split()
    claimed = ours + theirs
    lost, twice = len(set(_KEYS) - set(claimed)), len(claimed) - len(set(claimed))
    if other.returncode:
        raise VirnucError(f"the other process ended with {other.returncode}: {errors[-300:]}")
    found = f"{len(_KEYS)} tasks, {len(ours)} and {len(theirs)}, {lost} lost, {twice} claimed twice"
    promises = "the filesystem does not keep its promises; put `results` on another one"
    heartbeat = f"; a heartbeat is seen after {seconds:.2f} s"
    yield Finding.of(
        "two processes", found + heartbeat, promises if lost or twice else "", "FAILED"
    )


def _see_a_beat(other: "subprocess.Popen[str]", folder: Path, lease_seconds: float) -> float:
    """Wait for the other process's claim, then for its next heartbeat; how long that took."""

    def wait_for_more_than(content: bytes, seconds: float, what: str) -> bytes:
        end = time.monotonic() + seconds
        while time.monotonic() < end and other.poll() is None:
            if claim.exists() and (now := claim.read_bytes()) != content:
                return now
            time.sleep(0.01)
        if other.poll() is None:
            raise VirnucError(f"{what} of another process was not seen in {seconds:.0f} s")
        raise VirnucError(f"the other process ended: {other.communicate()[1][-300:]}")

    claim = RunFolder(folder).claims / _BEATING
    first = wait_for_more_than(b"", _PATIENCE, "the claim")
    begun = time.monotonic()
    wait_for_more_than(first, lease_seconds, "a heartbeat")
    return time.monotonic() - begun


def _be_the_other(folder: Path) -> list[str]:
    """Hold a claim and let its heart beat until the first process says `start`; then join in."""
    end = time.monotonic() + 2 * _PATIENCE
    with Queue(folder, "doctor", 60) as queue:
        claim = queue.claim(_BEATING)
        while claim and not (folder / "start").exists():
            if time.monotonic() > end:
                sys.exit("the first process said nothing")
            claim.beat()
            time.sleep(0.01)
    return _drain(folder)


def _drain(folder: Path) -> list[str]:
    """Claim and publish what can be had; the keys."""
    done = []
    with Queue(folder, "doctor", 60) as queue:
        for claim in queue.drain(_KEYS):
            queue.publish(claim, Path.touch)
            done.append(claim.key)
    return done


if __name__ == "__main__":
    print("\n".join(_be_the_other(Path(sys.argv[1]))))
