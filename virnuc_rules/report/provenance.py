"""The origin of the results of a run: `provenance.json`."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from virnuc_rules import __version__
from virnuc_rules.chunking.manifest import Manifest
from virnuc_rules.config.model import Config
from virnuc_rules.models.card import read_card
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.lifetime import snakemakes
from virnuc_rules.serving.worker_report import read_reports

_PACKAGES = ("torch", "tokenizers", "safetensors", "pyarrow", "numpy", "biopython", "snakemake")


class Input(BaseModel):
    """One file of a sample."""

    sample: str
    path: str
    sha256: str


class WorkerSummary(BaseModel):
    """How one worker computed."""

    worker: str
    host: str
    device: str
    precision: str
    verified: bool
    versions: dict[str, str]
    started: datetime
    chunks: int


class Provenance(BaseModel):
    """Inputs, settings, models, software and commands of a run."""

    made: datetime
    commands: list[str]  # of this process, and of the Snakemake that started it
    folder: str
    versions: dict[str, str]
    platform: str
    config: dict[str, Any]
    chunking: dict[str, dict[str, Any]]  # settings of the chunks, by sample
    inputs: list[Input]
    bundle: str
    bundle_fingerprint: str
    bundle_sha256: dict[str, str]
    computed: list[WorkerSummary]


def provenance(
    config: Config, samples: dict[str, Manifest], files: dict[str, list[Path]]
) -> Provenance:
    """Return the provenance of samples, given by name; `files` are those of the sheet."""
    card = read_card(config.run.bundle)
    fields = set(WorkerSummary.model_fields)
    reports = read_reports(Store(config.run.results).workers)
    return Provenance(
        made=datetime.now(UTC),
        commands=[shlex.join(sys.argv), *_snakemake()],
        folder=str(Path.cwd()),
        versions={
            "virnuc_rules": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        platform=platform.platform(),
        config=config.flat(),
        chunking={
            sample: {"version": manifest.version, **manifest.chunking.model_dump()}
            for sample, manifest in samples.items()
        },
        inputs=[
            Input(sample=sample, path=str(path), sha256=sha256)
            for sample, manifest in samples.items()
            for path, sha256 in zip(files[sample], manifest.sources_sha256, strict=True)
        ],
        bundle=card.name,
        bundle_fingerprint=card.fingerprint,
        bundle_sha256=card.sha256,
        computed=[WorkerSummary(**report.model_dump(include=fields)) for report in reports],
    )


def _snakemake() -> list[str]:
    """Return the command of the outermost Snakemake above this process."""
    return [shlex.join(process.cmdline()) for process in snakemakes()[-1:]]
