"""How fast devices embed: measured by the workers of a run, or taken from docs/speed.md.

Speed is compared as operations a second of the matrix products of both networks.
"""

import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from virnuc_rules.bundles.definition import find_definition
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.config.load import load_config
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.errors import ChunkError, ModelError, VirnucError
from virnuc_rules.models.card import DnabertConfig, Esm2Config, is_bundle, read_card
from virnuc_rules.serving.worker_report import WorkerReport, read_reports

_BASES_PER_TOKEN = 5.9  # of DNABERT-S; with the demo bundle's tokenizer
# Published ESM-2: millions of parameters, width of the embeddings.
_ESM2 = ((8, 320), (34, 480), (148, 640), (651, 1280), (2832, 2560))
_DNABERT_S_WIDTH = 768


@dataclass(frozen=True)
class Model:
    """Two networks, as far as time and disk depend on them: parameters, widths of embeddings."""

    name: str
    dnabert_s: int
    esm2: int
    widths: tuple[int, int]

    @classmethod
    def of(cls, config: Config) -> Self:
        """Describe the bundle, or the one that `bundle_definition` will make. Raises ModelError."""
        if is_bundle(config.run.bundle) or not config.workflow.bundle_definition:
            card = read_card(config.run.bundle)
            return cls(card.name, _matrices(card.dnabert_s), _matrices(card.esm2), card.widths)
        made = find_definition(config.workflow.bundle_definition)
        dnabert_s, esm2 = made.dnabert_s.parameters, made.esm2.parameters
        if dnabert_s is None or esm2 is None:
            raise ModelError(f"{made.name}: its definition has no `parameters`; make the bundle")
        _, width = min(_ESM2, key=lambda size: abs(1e6 * size[0] - esm2))
        return cls(made.name, dnabert_s, esm2, (_DNABERT_S_WIDTH, width))

    def operations(self, open_frames: float, residues: float) -> float:
        """Return the operations for open frames: two for each parameter and token."""
        bases = 3 * residues
        dnabert_s = self.dnabert_s * (bases / _BASES_PER_TOKEN + 2 * open_frames)
        return 2 * (self.esm2 * tokens(open_frames, residues) + dnabert_s)


def tokens(open_frames: float, residues: float) -> float:
    """Return the tokens of ESM-2: residues, <cls> and <eos>."""
    return residues + 2 * open_frames


def _matrices(shape: DnabertConfig | Esm2Config) -> int:
    """Count the parameters of the layers' matrices; the feed-forward part of DNABERT-S is gated."""
    width = shape.hidden_size
    inner = (3 if isinstance(shape, DnabertConfig) else 2) * shape.intermediate_size
    return shape.num_hidden_layers * width * (4 * width + inner)


@dataclass(frozen=True)
class Rate:
    """The speed of a worker."""

    device: str
    source: str
    esm2: int  # parameters of the network that it was measured with
    operations: float  # a second
    start: float = 0.0  # seconds of a worker in which it computes nothing; 0: not known

    def said(self, model: Model) -> str:
        """Say where the speed is from, and what it leaves out for this model."""
        notes = [self.source]
        if abs(self.esm2 / model.esm2 - 1) > 0.02:
            sizes = f"{self.esm2 / 1e6:,.1f} to {model.esm2 / 1e6:,.1f}"
            notes.append(f"scaled from {sizes} million parameters of ESM-2")
        if model.esm2 < 0.5 * self.esm2:
            notes.append("at least: small networks reach less of a device")
        if not self.start:
            notes.append("without the start of workers")
        return "; ".join(notes)


TABLE = (  # figures of docs/speed.md
    # 356 frames of 166 residues a second, both networks, of version 0.1
    Rate("NVIDIA H100, fp16", "docs/speed.md, VirNuc 0.1", 2_832_442_880, 3.46e14),
    # 0.60 of 147 GFLOP/s
    Rate("CPU with AVX2, fp32, 2 threads", "docs/speed.md", 147_728_000, 8.8e10),
)


def measured(results: Path) -> list[Rate]:
    """Return the speed of the workers of a run by device; none where it cannot be known."""
    folder, groups = RunFolder(results), defaultdict[str, list[WorkerReport]](list)
    for report in read_reports(folder.worker_reports):
        if report.chunks and report.seconds_computing:
            device = re.sub(r"^cuda:\d+ \((.*)\)$", r"\1", report.device)
            groups[f"{device}, {report.precision}"].append(report)
    frames, residues = _embedded(folder) if groups else (0, 0)
    if not frames or not folder.config.is_file():
        return []
    try:
        model = Model.of(load_config(folder.config, {})[0])
    except VirnucError:  # the bundle is gone
        return []
    one_frame = model.operations(1, residues / frames)
    return [_average(device, group, model, one_frame) for device, group in groups.items()]


def _embedded(folder: RunFolder) -> tuple[int, int]:
    """Return the open frames and residues of all samples of a run."""
    frames = residues = 0
    for path in folder.chunk_folders.glob("*"):
        with suppress(ChunkError):
            for entry in read_manifest(ChunkFolder(path)).chunks:
                frames, residues = frames + entry.open_frames, residues + entry.residues
    return frames, residues


def _average(device: str, reports: list[WorkerReport], model: Model, one_frame: float) -> Rate:
    """Average workers. What the first chunk takes more than others belongs to the start."""
    chunks, seconds, start = 0.0, 0.0, 0.0
    for r in reports:
        first = r.seconds_first_chunk if r.seconds_computing > r.seconds_first_chunk else 0.0
        chunks += r.tried - bool(first)
        seconds += r.seconds_computing - first
        start += (r.updated - r.started).total_seconds() - r.seconds_computing
        start += first - r.seconds_waiting
    of_first = seconds / chunks * (sum(r.tried for r in reports) - chunks)
    frames = sum(r.open_frames for r in reports) * chunks / sum(r.tried for r in reports)
    workers = f"{len(reports)} worker{'s' * (len(reports) > 1)}"
    return Rate(
        device, f"measured here, {workers} with {model.name}", model.esm2,
        one_frame * frames / seconds, max(0.0, start - of_first) / len(reports),
    )  # fmt: skip
