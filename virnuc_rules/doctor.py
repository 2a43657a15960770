"""What a site gets wrong, found before a run: filesystem, clock, device, bundle, input, Slurm.

`python -m virnuc_rules.doctor FOLDER` is the second process of the filesystem's check.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import yaml
from pydantic import BaseModel

from virnuc_rules.config import Config, check_inputs, read_samples
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.files import file_sha256, replacing, sync_directory
from virnuc_rules.models.card import read_card
from virnuc_rules.models.verified import read_verified
from virnuc_rules.queue import Queue

Level = Literal["ok", "note", "warning", "FAILED"]

_KEYS = [f"{number:064x}" for number in range(200)]  # tasks that two processes share
_LEAST_SPACE, _LEAST_INODES = 10e9, 100_000
_MOST_SKEW = 2.0  # seconds between the filesystem's clock and ours
_ONE_NODE = ("tmpfs", "ramfs", "overlay")  # filesystems that no other node sees
_SLURM_OPTIONS = {  # resources of Snakemake's Slurm plugin, as options of sbatch
    "slurm_partition": "--partition",
    "slurm_account": "--account",
    "runtime": "--time",
    "mem_mb": "--mem",
    "gpu": "--gpus",
    "qos": "--qos",
    "constraint": "--constraint",
}


class Finding(BaseModel):
    """What one check found; `remedy` says what to do where that is not good."""

    level: Level
    check: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.level:8}{self.check}: {self.found}{remedy}"


class _Site(NamedTuple):
    config: Config
    profile: Path


def diagnose(config: Config, profile: Path) -> Iterator[Finding]:
    """Run all checks; one that breaks is a finding too, and the others go on."""
    checks: list[tuple[str, Callable[[_Site], Iterator[Finding]]]] = [
        ("samples", _samples),
        ("results folder", _space),
        ("links and renames", _links),
        ("two processes", _two_processes),
        ("clock", _clock),
        ("bundle", _bundle),
        ("device", _device),
        ("Slurm", _slurm),
    ]
    for name, check in checks:
        try:
            yield from check(_Site(config, profile))
        except (VirnucError, OSError, subprocess.SubprocessError, yaml.YAMLError) as error:
            yield Finding(level="FAILED", check=name, found=" ".join(str(error).split()))


def _samples(site: _Site) -> Iterator[Finding]:
    samples = read_samples(site.config.samples)
    check_inputs(site.config, samples)
    yield Finding(level="ok", check="samples", found=f"{len(samples)}, all input files are there")


def _space(site: _Site) -> Iterator[Finding]:
    site.config.results.mkdir(parents=True, exist_ok=True)
    folder = site.config.results.resolve()
    free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
    parts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    kind = max(parts, key=lambda part: len(part.mountpoint)).fstype if parts else "unknown"
    found = f"{folder} on {kind}, {free / 1e9:.1f} GB free"
    few = inodes.f_files and inodes.f_favail < _LEAST_INODES
    if free < _LEAST_SPACE or few:
        remedy = "embeddings need 13 kB for an open frame (ESM-2 3B), and a file for each chunk"
        yield Finding(level="warning", check="results folder", found=found, remedy=remedy)
    elif kind in _ONE_NODE:
        remedy = "other nodes do not see it; on a cluster set `results` to a shared filesystem"
        yield Finding(level="warning", check="results folder", found=found, remedy=remedy)
    else:
        yield Finding(level="ok", check="results folder", found=found)


def _links(site: _Site) -> Iterator[Finding]:
    """Do what the queue relies on, once each."""
    remedy = "put `results` on a filesystem with hard links: NFS, Lustre, GPFS, BeeGFS, ext4, XFS"
    with _scratch(site.config) as folder:
        one, two = folder / "one", folder / "two"
        one.write_text("1")
        try:
            os.link(one, two)
        except OSError as error:
            found = f"hard links do not work ({error.strerror})"
            yield Finding(level="FAILED", check="links and renames", found=found, remedy=remedy)
            return
        problems = [] if one.stat().st_nlink == 2 else ["a linked file does not count its links"]
        try:
            os.link(one, two)
            problems.append("a link may replace a file: two workers would get one chunk")
        except FileExistsError:
            pass
        with replacing(folder / "three") as handle:
            handle.write("new")
        one.replace(folder / "three")
        if one.exists() or (folder / "three").read_text() != "1":
            problems.append("a rename does not replace")
        sync_directory(folder)
    if problems:
        found = "; ".join(problems)
        yield Finding(level="FAILED", check="links and renames", found=found, remedy=remedy)
    else:
        found = "hard links are exclusive and counted, renames replace, fsync works"
        yield Finding(level="ok", check="links and renames", found=found)


def _two_processes(site: _Site) -> Iterator[Finding]:
    """Let two processes drain one queue: each task must be claimed by exactly one."""
    with _scratch(site.config) as folder:
        command = [sys.executable, "-m", "virnuc_rules.doctor", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            ours = _drain(folder)
            theirs = other.communicate(timeout=300)[0].split()
        claimed = sorted(ours + theirs)
    if claimed == _KEYS and other.returncode == 0:
        found = f"{len(_KEYS)} tasks, {len(ours)} and {len(theirs)}, none twice, none lost"
        yield Finding(level="ok", check="two processes", found=found)
        return
    lost, twice = len(set(_KEYS) - set(claimed)), len(claimed) - len(set(claimed))
    yield Finding(
        level="FAILED",
        check="two processes",
        found=f"of {len(_KEYS)} tasks {lost} were lost and {twice} claimed twice",
        remedy="the filesystem does not keep its promises; put `results` on another one",
    )


def _drain(folder: Path) -> list[str]:
    """Claim and publish what can be had; the keys."""
    done = []
    with Queue(folder, "doctor", 60) as queue:
        for claim in queue.drain(_KEYS):
            queue.publish(claim, Path.touch)
            done.append(claim.key)
    return done


def _clock(site: _Site) -> Iterator[Finding]:
    with _scratch(site.config) as folder:
        before = time.time()
        (folder / "now").write_text("")
        written = (folder / "now").stat().st_mtime
    skew = max(before - written, written - time.time(), 0.0)
    if skew > _MOST_SKEW:
        yield Finding(
            level="warning",
            check="clock",
            found=f"the filesystem's is {skew:.1f} s off",
            remedy="the queue does not mind, Snakemake compares times of files: ask for NTP",
        )
    else:
        yield Finding(level="ok", check="clock", found="this node and the filesystem agree")


def _bundle(site: _Site) -> Iterator[Finding]:
    folder = site.config.bundle
    card = read_card(folder)
    for name, expected in card.sha256.items():
        if file_sha256(folder / name) != expected:
            raise ModelError(f"{folder / name}: damaged (sha256 differs); make the bundle again")
    if card.window != site.config.window:
        raise ModelError(
            f"{card.name} is for windows of {card.window} bases, the config says "
            f"`window: {site.config.window}`"
        )
    found = f"{card.name}, {len(card.sha256)} files with the right sha256"
    if card.classifier is None:
        remedy = "embeddings can be computed, not classified: prepare it with --classifier"
        yield Finding(level="warning", check="bundle", found=found, remedy=remedy)
    elif card.demo:
        yield Finding(level="note", check="bundle", found=f"{found}; a demo model")
    else:
        yield Finding(level="ok", check="bundle", found=found)


def _device(site: _Site) -> Iterator[Finding]:
    import torch

    from virnuc_rules.models.device import choose_device, choose_precision

    device = choose_device(site.config.device)
    precision = choose_precision(site.config.precision, device)
    square = torch.ones(64, 64, device=device)
    if float((square @ square).sum()) != 64.0**3:
        raise ModelError(f"{device} multiplies wrongly: a bad device")
    found = f"{device}, precision {precision}, torch {torch.__version__}"
    weights = sum(path.stat().st_size for path in site.config.bundle.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        found = f"{found}, {torch.cuda.get_device_name(device)}, {free / 1e9:.1f} GB free"
    card = read_card(site.config.bundle)
    if weights > free:
        remedy = f"the weights are {weights / 1e9:.1f} GB in fp32: take a larger one, or fp16"
        yield Finding(level="warning", check="device", found=found, remedy=remedy)
    elif not read_verified(site.config.bundle, card.fingerprint).covers(precision, device.type):
        remedy = "this precision was not verified here: `virnuc-rules models verify`"
        yield Finding(level="warning", check="device", found=found, remedy=remedy)
    else:
        yield Finding(level="ok", check="device", found=found)


def _slurm(site: _Site) -> Iterator[Finding]:
    """Ask Slurm whether it would take the jobs of the profile; nothing is submitted."""
    if not shutil.which("sbatch"):
        yield Finding(level="note", check="Slurm", found="no sbatch here, not checked")
        return
    alive = subprocess.run(["sinfo"], capture_output=True, text=True, timeout=60, check=False)
    if alive.returncode:
        found = f"does not answer: {' '.join(alive.stderr.split())}"
        yield Finding(level="FAILED", check="Slurm", found=found, remedy="is this a login node?")
        return
    path = site.profile / "config.v9+.yaml"
    profile: dict[str, Any] = yaml.safe_load(path.read_text())
    default = profile.get("default-resources", {})
    jobs = {"default": default}
    for rule, own in profile.get("set-resources", {}).items():
        jobs[rule] = {**default, **own}
    for name, resources in jobs.items():
        options = [f"{_SLURM_OPTIONS[k]}={v}" for k, v in resources.items() if k in _SLURM_OPTIONS]
        command = ["sbatch", "--test-only", "--ntasks=1", *options, "--wrap=true"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        check, asked = f"Slurm, jobs of {name}", " ".join(options)
        if done.returncode == 0:
            yield Finding(level="ok", check=check, found=f"accepted ({asked})")
        else:
            reason = " ".join(done.stderr.split())
            remedy = f"change {path}, or put a profile of your own on top (README.md)"
            yield Finding(
                level="FAILED", check=check, found=f"refused ({asked}): {reason}", remedy=remedy
            )


@contextmanager
def _scratch(config: Config) -> Iterator[Path]:
    """Give a folder inside `results` for the time of a check."""
    config.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=config.results) as name:
        yield Path(name)


if __name__ == "__main__":
    print("\n".join(_drain(Path(sys.argv[1]))))
