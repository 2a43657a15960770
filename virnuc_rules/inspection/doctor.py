"""Checks of a site before a run: filesystem, clock, device, bundle, input, Slurm."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

from virnuc_rules import __version__
from virnuc_rules.bundles.definition import with_window
from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.config.model import Config
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.errors import InputError, ModelError, VirnucError
from virnuc_rules.files.probe import probe
from virnuc_rules.inspection.finding import Finding, Level, Site, ask, scratch
from virnuc_rules.inspection.slurm import slurm
from virnuc_rules.inspection.two_processes import two_processes
from virnuc_rules.models.card import is_bundle, read_card
from virnuc_rules.planning.plan import Plan
from virnuc_rules.reading.fastx import Sequences

COLOURS: dict[Level, str] = {"ok": "green", "note": "", "warning": "yellow", "FAILED": "red"}

_MIN_SPACE, _MIN_INODES = 10e9, 100_000  # bytes; files
_MAX_SKEW = 2.0  # seconds between the clocks of the filesystem and of this machine
_ONE_NODE = ("tmpfs", "ramfs", "overlay")  # filesystems that no other node sees
_NVIDIA = Path("/proc/driver/nvidia/version")  # where a driver is loaded


def diagnose(config: Config, profile: Path | None = None) -> Iterator[Finding]:
    """Run all checks; one that raises an error is a finding too, and the next ones are run.

    `profile` is the folder of the Slurm profile; by default the one of the working directory.
    """
    checks: list[tuple[str, Callable[[Site], Iterator[Finding]]]] = [
        ("environment", _environment),
        ("samples", _samples),
        ("results folder", _space),
        ("links and renames", _links),
        ("two processes", two_processes),
        ("clock", _clock),
        ("bundle", _bundle),
        ("device", _device),
        ("Slurm", slurm),
    ]
    for name, check in checks:
        try:
            yield from check(Site(config, profile))
        except Exception as error:  # of any kind: the next checks must run too
            kind = "" if isinstance(error, VirnucError) else f"{type(error).__name__}: "
            yield Finding(level="FAILED", check=name, found=kind + " ".join(str(error).split()))


def _environment(site: Site) -> Iterator[Finding]:
    """Is the `virnuc-rules` that jobs will find this one, and are there cores for its threads?"""
    names = ("snakemake", "snakemake-executor-plugin-slurm", "torch")
    found = f"virnuc-rules {__version__}, " + ", ".join(f"{name} {version(name)}" for name in names)
    program, cores = shutil.which("virnuc-rules"), os.cpu_count() or 1
    other = ask(program, "--version").stdout.strip() if program else ""
    level: Level = "warning"
    remedy = ""
    if not program:
        remedy = "`virnuc-rules` is not in PATH, where jobs look for it"
    elif other != f"virnuc-rules {__version__}":
        level, remedy = "FAILED", f"{program} says {other!r}: activate one environment only"
    elif site.config.compute.threads > cores:
        remedy = f"`threads: {site.config.compute.threads}`, but this machine has {cores} cores"
    yield Finding.of("environment", found, remedy, level)


def _samples(site: Site) -> Iterator[Finding]:
    sheet = read_sheet(site.config.inputs.samples)
    try:
        plan = Plan(with_window(site.config), sheet)
    except ModelError:  # `_bundle` says why
        yield Finding(level="note", check="samples", found=f"{len(sheet.samples)}, not looked at")
        return
    plan.look()
    plan.check_inputs()
    yield Finding.of("samples", f"{len(plan.samples)}, all input files are there or chunked")
    for name, sample in plan.samples.items():
        for path in sample.files if sample.chunks is None else []:
            yield from _first_record(name, path)
        if sample.problem:
            yield Finding(level="FAILED", check="samples", found=sample.problem)


def _first_record(sample: str, path: Path) -> Iterator[Finding]:
    """Read the beginning of a file that is not chunked yet."""
    try:
        contig = next(Sequences([path], sample).contigs(), None)
    except InputError as error:
        yield Finding(level="FAILED", check="samples", found=str(error))
    else:
        if contig is None:
            found = f"sample {sample}: {path} is empty: no contigs"
            yield Finding(level="warning", check="samples", found=found)


def _space(site: Site) -> Iterator[Finding]:
    with scratch(site.config):
        folder = site.config.run.results.resolve()
    free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
    parts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    # Of several mounts on one folder the last one is visible.
    kind = max(reversed(parts), key=lambda p: len(p.mountpoint)).fstype if parts else "unknown"
    few_inodes = inodes.f_files and inodes.f_favail < _MIN_INODES
    files = f" for {inodes.f_favail:,} files" if inodes.f_files else ""
    found = f"{folder} on {kind}, {free / 1e9:.1f} GB free{files}"
    level: Level = "warning"
    remedy = ""
    if free < _MIN_SPACE or few_inodes:
        remedy = "embeddings need 13 kB for an open frame (ESM-2 3B), and a file for each chunk"
    elif kind in _ONE_NODE and shutil.which("sbatch"):
        remedy = "other nodes do not see it; on a cluster set `results` to a shared filesystem"
    elif kind.startswith("nfs"):
        level = "note"
        remedy = "nodes see files of others late: keep `latency-wait` and `lease_seconds` at 60"
    yield Finding.of("results folder", found, remedy, level)


def _links(site: Site) -> Iterator[Finding]:
    """Try each operation that the queue relies on, as a worker does when it starts."""
    with scratch(site.config) as folder:
        probe(folder / "probe")
    found = "hard links are exclusive and counted, renames replace, fsync works"
    yield Finding.of("links and renames", found)


def _clock(site: Site) -> Iterator[Finding]:
    with scratch(site.config) as folder:
        before = time.time()
        (folder / "now").write_text("")
        written = (folder / "now").stat().st_mtime
    skew = max(before - written, written - time.time(), 0.0)
    remedy = "the queue does not mind, Snakemake compares times of files: ask for NTP"
    found = f"the filesystem's is {skew:.1f} s off"
    yield Finding.of("clock", found, remedy if skew > _MAX_SKEW else "")


def _bundle(site: Site) -> Iterator[Finding]:
    from virnuc_rules.models.bundle import Bundle

    with_window(site.config)
    definition = site.config.workflow.bundle_definition
    if definition and not is_bundle(site.config.run.bundle):
        made = f"{site.config.run.bundle}: does not exist yet, a run makes it of {definition}"
        yield Finding(level="note", check="bundle", found=made)
        return
    bundle = Bundle(site.config.run.bundle)
    card = bundle.card
    bundle.check(*card.sha256)
    found = f"{card.name}, {len(card.sha256)} files with the right sha256"
    note = "; a demo model, no substitute for the published ones" if card.demo else ""
    no_classifier = "embeddings can be computed, not classified: prepare it with --classifier"
    yield Finding.of("bundle", found + note, "" if card.classifier else no_classifier)


def _device(site: Site) -> Iterator[Finding]:
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
    yield Finding.of("device", found, remedy)


def _is_verified(bundle: Path, precision: str, device: str) -> bool:
    try:
        card = read_card(bundle)
    except ModelError:
        return True  # the check of the bundle has reported it
    return read_verified(bundle, card.fingerprint).covers(precision, device)
