"""What a site gets wrong, found before a run: filesystem, clock, device, bundle, input, Slurm.

`python -m virnuc_rules.inspection.doctor FOLDER` is the second process of the filesystem's check.
"""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import psutil
import yaml
from pydantic import BaseModel

from virnuc_rules import __version__
from virnuc_rules.bundles.definition import with_window
from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import check_inputs, read_samples
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.files.atomic import replacing, sync_directory
from virnuc_rules.models.card import read_card
from virnuc_rules.queue.claims import Queue

Level = Literal["ok", "note", "warning", "FAILED"]
COLOURS: dict[Level, str] = {"ok": "green", "note": "", "warning": "yellow", "FAILED": "red"}

_KEYS = [f"{number:064x}" for number in range(200)]  # tasks that two processes share
_BEATING = "f" * 64  # the claim whose heartbeat the one sees of the other
_PATIENCE = 120.0  # seconds until the other process must have shown itself
_LEAST_SPACE, _LEAST_INODES = 10e9, 100_000
_MOST_SKEW = 2.0  # seconds between the filesystem's clock and ours
_ONE_NODE = ("tmpfs", "ramfs", "overlay")  # filesystems that no other node sees
_NVIDIA = Path("/proc/driver/nvidia/version")  # where a driver is loaded
_GPU_RULES = ("serve", "embed_chunk")


class Finding(BaseModel):
    """What one check found; `remedy` says what to do where that is not good."""

    level: Level
    check: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.level:8}{self.check}: {self.found}{remedy}"


def _finding(check: str, found: str, remedy: str = "", level: Level = "warning") -> Finding:
    """Return that it is well, or `level` where there is something to do."""
    return Finding(level=level if remedy else "ok", check=check, found=found, remedy=remedy)


class _Site(NamedTuple):
    config: Config
    profile: Path | None


def diagnose(config: Config, profile: Path | None = None) -> Iterator[Finding]:
    """Run all checks; one that breaks is a finding too, and the others go on.

    `profile` is the folder of the Slurm profile; by default the one of the working directory.
    """
    checks: list[tuple[str, Callable[[_Site], Iterator[Finding]]]] = [
        ("environment", _environment),
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
        except Exception as error:  # whatever it is, the other checks are wanted too
            kind = "" if isinstance(error, VirnucError) else f"{type(error).__name__}: "
            yield Finding(level="FAILED", check=name, found=kind + " ".join(str(error).split()))


def _environment(site: _Site) -> Iterator[Finding]:
    """Is the `virnuc-rules` that jobs will find this one, and are there cores for its threads?"""
    names = ("snakemake", "snakemake-executor-plugin-slurm", "torch")
    found = f"virnuc-rules {__version__}, " + ", ".join(f"{name} {version(name)}" for name in names)
    program, cores = shutil.which("virnuc-rules"), os.cpu_count() or 1
    other = _ask(program, "--version").stdout.strip() if program else ""
    level: Level = "warning"
    remedy = ""
    if not program:
        remedy = "`virnuc-rules` is not in PATH, where jobs look for it"
    elif other != f"virnuc-rules {__version__}":
        level, remedy = "FAILED", f"{program} says {other!r}: activate one environment only"
    elif site.config.compute.threads > cores:
        remedy = f"`threads: {site.config.compute.threads}`, but {cores} cores are here"
    yield _finding("environment", found, remedy, level)


def _samples(site: _Site) -> Iterator[Finding]:
    samples = read_samples(site.config.inputs.samples)
    check_inputs(site.config, samples)
    yield _finding("samples", f"{len(samples)}, all input files are there")


def _space(site: _Site) -> Iterator[Finding]:
    with _scratch(site.config):
        folder = site.config.run.results.resolve()
    free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
    parts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    # Of several mounts on one folder the last is seen.
    kind = max(reversed(parts), key=lambda p: len(p.mountpoint)).fstype if parts else "unknown"
    few = inodes.f_files and inodes.f_favail < _LEAST_INODES
    files = f" for {inodes.f_favail:,} files" if inodes.f_files else ""
    found = f"{folder} on {kind}, {free / 1e9:.1f} GB free{files}"
    level: Level = "warning"
    remedy = ""
    if free < _LEAST_SPACE or few:
        remedy = "embeddings need 13 kB for an open frame (ESM-2 3B), and a file for each chunk"
    elif kind in _ONE_NODE and shutil.which("sbatch"):
        remedy = "other nodes do not see it; on a cluster set `results` to a shared filesystem"
    elif kind.startswith("nfs"):
        level = "note"
        remedy = "nodes see files of others late: keep `latency-wait` and `lease_seconds` at 60"
    yield _finding("results folder", found, remedy, level)


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
            yield _finding("links and renames", found, remedy, "FAILED")
            return
        problems = [] if one.stat().st_nlink == 2 else ["a linked file does not count its links"]
        with suppress(FileExistsError):
            os.link(one, two)
            problems.append("a link may replace a file: two workers would get one chunk")
        with replacing(folder / "three") as handle:
            handle.write("new")
        one.replace(folder / "three")
        if one.exists() or (folder / "three").read_text() != "1":
            problems.append("a rename does not replace")
        sync_directory(folder)
    found = (
        "; ".join(problems) or "hard links are exclusive and counted, renames replace, fsync works"
    )
    yield _finding("links and renames", found, remedy if problems else "", "FAILED")


def _two_processes(site: _Site) -> Iterator[Finding]:
    """Let two processes drain one queue: each task must be claimed by exactly one."""
    with _scratch(site.config) as folder:
        command = [sys.executable, "-m", "virnuc_rules.inspection.doctor", str(folder)]
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
    yield _finding("two processes", found + heartbeat, promises if lost or twice else "", "FAILED")


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


def _clock(site: _Site) -> Iterator[Finding]:
    with _scratch(site.config) as folder:
        before = time.time()
        (folder / "now").write_text("")
        written = (folder / "now").stat().st_mtime
    skew = max(before - written, written - time.time(), 0.0)
    remedy = "the queue does not mind, Snakemake compares times of files: ask for NTP"
    found = f"the filesystem's is {skew:.1f} s off"
    yield _finding("clock", found, remedy if skew > _MOST_SKEW else "")


def _bundle(site: _Site) -> Iterator[Finding]:
    from virnuc_rules.models.bundle import Bundle

    bundle = Bundle(site.config.run.bundle)
    card = bundle.card
    bundle.check(*card.sha256)
    with_window(site.config)
    found = f"{card.name}, {len(card.sha256)} files with the right sha256"
    note = "; a demo model, no substitute for the published ones" if card.demo else ""
    no_classifier = "embeddings can be computed, not classified: prepare it with --classifier"
    yield _finding("bundle", found + note, "" if card.classifier else no_classifier)


def _device(site: _Site) -> Iterator[Finding]:
    import torch

    from virnuc_rules.models.device import DTYPES, choose_device, choose_precision

    device = choose_device(site.config.compute.device)
    precision = choose_precision(site.config.embedding.precision, device)
    square = torch.ones(64, 64, device=device, dtype=DTYPES[precision])
    if not bool((square @ square == 64).all()):
        raise ModelError(f"{device} multiplies wrongly: a bad device, take another")
    name, free = "", psutil.virtual_memory().available
    if device.type == "cuda":
        name, free = f" ({torch.cuda.get_device_name(device)})", torch.cuda.mem_get_info(device)[0]
    found = f"{device}{name}, precision {precision}, {free / 1e9:.1f} GB of memory free"
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        found += f", CUDA_VISIBLE_DEVICES={visible}"
    sizes = [path.stat().st_size for path in site.config.run.bundle.glob("*.safetensors")]
    weights = sum(sizes) * DTYPES[precision].itemsize / DTYPES["fp32"].itemsize
    remedy = ""
    if weights > free:
        remedy = f"the weights need {weights / 1e9:.1f} GB: take a device with more, or fp16"
    elif site.config.compute.device == "auto" and device.type == "cpu" and _NVIDIA.exists():
        remedy = "an NVIDIA driver is here, but torch sees no device: is it a build for CUDA?"
    elif not _is_verified(site.config.run.bundle, precision, device.type):
        remedy = "this precision was not verified here: `virnuc-rules models verify`"
    yield _finding("device", found, remedy)


def _is_verified(bundle: Path, precision: str, device: str) -> bool:
    try:
        card = read_card(bundle)
    except ModelError:
        return True  # the check of the bundle has said so
    return read_verified(bundle, card.fingerprint).covers(precision, device)


def _slurm(site: _Site) -> Iterator[Finding]:
    """Ask Slurm whether it would take the jobs of the profile; nothing is submitted."""
    if not shutil.which("sbatch"):
        yield Finding(level="note", check="Slurm", found="no sbatch here, not checked")
        return
    profile = site.profile or next(
        filter(Path.exists, map(Path, ("slurm", "profiles/slurm"))), None
    )
    if profile is None:
        yield _finding("Slurm", "no profile here, not checked", "say --profile DIR", "note")
        return
    listed = _ask("sinfo", "-h", "-o", "%R %l")
    if listed.returncode:
        found = f"does not answer: {' '.join(listed.stderr.split())}"
        yield _finding("Slurm", found, "is this a login node?", "FAILED")
        return
    limits = {name: _minutes(limit) for name, limit in map(str.split, listed.stdout.splitlines())}
    path = profile / "config.v9+.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    default, rules = settings.get("default-resources", {}), settings.get("set-resources", {})
    jobs = {"default": {}, **rules, "serve": rules.get("serve", {})}
    for rule, own in jobs.items():
        threads = site.config.compute.threads if rule in _GPU_RULES else 1
        finding = _job(
            rule, _request(default, own, rule, threads), limits, site.config.compute.device
        )
        if finding.level == "FAILED":
            finding.remedy += f"; change {path}, or put a profile of your own on top (README.md)"
        yield finding


def _request(default: dict[str, Any], own: dict[str, Any], rule: str, threads: int) -> list[str]:
    """Return the options that Snakemake's plugin would give sbatch, by its own code."""
    from snakemake.resources import Resources  # type: ignore[import-untyped]
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command  # type: ignore[import-untyped]
    from snakemake_executor_plugin_slurm.utils import set_gres_string  # type: ignore[import-untyped]

    def parsed(block: dict[str, Any]) -> Any:
        return Resources.parse([f"{k}={v}" for k, v in block.items()], allow_expressions=True)

    def first_attempt(resource: Any) -> Any:
        given = {"input": (), "attempt": 1, "threads": threads, "rulename": rule, "async_run": None}
        return resource.evaluate(None, **given)

    resources = parsed(default)
    resources.update(parsed(own))
    values = dict(resources.expand_items(constraints={}, evaluate=first_attempt))
    job = SimpleNamespace(resources=SimpleNamespace(**values, get=values.get), threads=threads)
    account, partition = values.get("slurm_account"), values.get("slurm_partition")
    parameters = {
        "run_uuid": "doctor", "slurm_logfile": "none", "comment_str": rule, "workdir": "",
        "account": f"-A {shlex.quote(str(account))}" if account else "",
        "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
    }  # fmt: skip
    words = shlex.split(get_submit_command(job, parameters) + set_gres_string(job))
    return words[words.index("--comment") + 2 :]  # what is before it decides nothing


def _job(rule: str, options: list[str], limits: dict[str, float], device: str) -> Finding:
    check, asked = f"Slurm, jobs of {rule}", " ".join(options)
    answer = _ask("sbatch", "--test-only", *options, "--wrap=true")
    if answer.returncode:
        found = f"refused ({asked}): {' '.join(answer.stderr.split())}"
        return _finding(check, found, f"the partitions are {', '.join(limits)}", "FAILED")
    given = dict(itertools.pairwise(options))
    runtime, names = float(given.get("-t", 0)), given.get("-p", "").split(",")
    most = max(limits.get(name, float("inf")) for name in names)
    if runtime > most:
        found = f"{runtime:.0f} minutes, of {most:.0f} that partition {given['-p']} gives"
        return _finding(check, found, "lower `runtime`", "FAILED")
    has_gpu = any(option.startswith(("--gpu", "--gres=gpu")) for option in options)
    needs_gpu = rule in _GPU_RULES and device != "cpu"
    remedy = "no GPU: `gpu: 1` asks for one (not `gpus`)" if needs_gpu and not has_gpu else ""
    return _finding(check, f"accepted ({asked})", remedy)


def _minutes(limit: str) -> float:
    """Parse a time limit of sinfo: [days-][[hours:]minutes:]seconds, or infinite."""
    if not limit[0].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = ([0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + seconds / 60


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def _scratch(config: Config) -> Iterator[Path]:
    """Give a folder inside `results` for the time of a check."""
    try:
        config.run.results.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".doctor-", dir=config.run.results)
    except OSError as error:
        reason = f"{config.run.results}: cannot be written ({error.strerror})"
        raise VirnucError(f"{reason}; set `results` to a folder of yours") from None
    with folder as name:
        yield Path(name)


if __name__ == "__main__":
    print("\n".join(_be_the_other(Path(sys.argv[1]))))
