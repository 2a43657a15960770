"""Two workers on one queue, one of which is dead, slow, broken or on a bad device."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from harness import Project, copy_bundle, spoil, wait_until


def assert_embedded_like(project: Project, reference: Project) -> None:
    assert project.digests() == reference.digests()
    assert project.failures() == project.left_over() == []
    assert project.processes() == []


def test_another_takes_over_what_a_killed_one_held(many: Project, reference: Project) -> None:
    dead, living = many.serve(0), many.serve(1, forked=True)
    wait_until(lambda: len(many.embeddings()) > 5)
    dead.kill()
    _, errors = living.communicate(timeout=200)
    dead.communicate()
    assert living.returncode == 0, errors
    # As Snakemake would start it: it removes what it left of its own report.
    again = many.serve(0, forked=True)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0 and "no model was loaded" in errors, errors
    assert_embedded_like(many, reference)


FREEZE = """
import os, signal, sys, time
left = iter(range(5))
def hook(event, arguments):
    if event == "os.{event}" and {where!r} in str(arguments[0]) and next(left, None) == 4:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1)  # another thread may take the signal, a moment later
sys.addaudithook(hook)
"""


def stopped(project: Project) -> list[int]:
    """Ids of the processes that a SIGSTOP has stopped."""
    status = {pid: Path(f"/proc/{pid}/stat").read_text() for pid in project.processes()}
    return [pid for pid, text in status.items() if text.rpartition(")")[2].split()[0] == "T"]


@pytest.mark.parametrize(
    ("event", "where"),
    [("remove", "queue/claims/."), ("rename", "embeddings/")],
    ids=["claimed", "written"],
)
def test_a_slow_one_is_late(many: Project, reference: Project, event: str, where: str) -> None:
    """It sleeps for longer than its lease, with a new claim or an unpublished result."""
    slow = many.serve(0, patch=FREEZE.format(event=event, where=where))
    wait_until(lambda: stopped(many))
    try:
        held = {claim.name for claim in many.claims() if "." not in claim.name}
        other = many.serve(1, forked=True)
        _, errors = other.communicate(timeout=200)
        assert other.returncode == 0, errors
        assert held and held <= many.embeddings().keys()
    finally:
        for pid in stopped(many):
            os.kill(pid, signal.SIGCONT)
    _, errors = slow.communicate(timeout=200)
    assert slow.returncode == 0 and "Traceback" not in errors, errors
    assert_embedded_like(many, reference)


GOES_BAD = """
import itertools
from virnuc_rules.embedding import embed
open_networks, calls = embed.Networks.open, itertools.count()
def open_bad(*arguments):
    networks = open_networks(*arguments)
    go_bad = lambda network, ids, out: {change} if next(calls) > 50 else out
    networks.esm2.register_forward_hook(go_bad)
    return networks
embed.Networks.open = open_bad
"""


@pytest.mark.parametrize("change", ["out * float('nan')", "1 / 0"], ids=["nan", "error"])
def test_one_has_a_bad_device(many: Project, reference: Project, change: str) -> None:
    """After a failure the self-check fails too: it goes, and blames no chunk."""
    bad = many.serve(0, patch=GOES_BAD.format(change=change))
    wait_until(lambda: bad.poll() is not None or len(many.embeddings()) > 2)
    good = many.serve(1, forked=True)
    _, bad_errors = bad.communicate(timeout=200)
    _, good_errors = good.communicate(timeout=200)
    assert bad.returncode == 3, bad_errors
    assert "worker 0: the device gives wrong numbers" in bad_errors
    assert "Traceback" not in bad_errors and "attempt" not in bad_errors
    assert good.returncode == 0, good_errors
    assert 0 < many.report(0)["chunks"] < many.chunks()
    assert many.report(0)["failed_chunks"] == 0
    assert many.report(0)["chunks"] + many.report(1)["chunks"] == many.chunks()
    assert_embedded_like(many, reference)


def test_one_cannot_load_its_models(many: Project, reference: Project) -> None:
    bundle = copy_bundle(many.folder)
    spoil(bundle / "esm2.safetensors")
    broken = many.serve(0, forked=True, bundle=bundle)
    sound = many.serve(1, forked=True)
    _, errors = broken.communicate(timeout=200)
    assert broken.returncode == 2, errors
    assert "esm2.safetensors: damaged" in errors
    _, errors = sound.communicate(timeout=200)
    assert sound.returncode == 0, errors
    assert many.report(1)["chunks"] == many.chunks()
    assert_embedded_like(many, reference)


def test_one_without_work_loads_nothing(undisturbed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    shutil.copytree(undisturbed.results, project.results)
    bundle = copy_bundle(tmp_path)
    os.truncate(bundle / "esm2.safetensors", 0)  # loading it would be an error
    worker = project.serve(forked=True, bundle=bundle)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 0 and "no model was loaded" in errors
    assert project.report()["load_count"] == {}
