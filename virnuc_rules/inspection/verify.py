"""Measuring what a precision changes, on the user's own sequences and device."""

import platform
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from virnuc_rules import __version__
from virnuc_rules.bundles.verified import EXACT, Verification, read_verified, write_verified
from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Embedding
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.embedding.embed import Networks, embed_chunk, self_check
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import file_sha256
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.scored_chunks import ScoredChunk
from virnuc_rules.prediction.window_calls import Consensus

_CHUNK = 2000  # open frames: progress, not memory, sets it


class Data:
    """A user's sequences, cut and translated as a run does it."""

    def __init__(self, fasta: Path, window: int, folder: Path, chunk: int = _CHUNK) -> None:
        self.fasta, self.folder = fasta, ChunkFolder(folder / "chunks")
        chunking = Chunking(window=window, chunk_size=chunk)
        self.manifest = write_chunks([fasta], self.folder.path, chunking, sample="verify")
        if not self.manifest.open_frames:
            raise ModelError(f"{fasta}: no open frames in it; give sequences to compare on")

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks."""
        entries = read_manifest(self.folder).chunks
        return (read_chunk(self.folder.path / entry.file, entry) for entry in entries)

    def described(self, bundle: Bundle, device: torch.device) -> dict[str, Any]:
        """Return what all kinds of runs say about themselves."""
        cuda = device.type == "cuda"
        return {
            "fingerprint": bundle.card.fingerprint,
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
            "versions": {"virnuc_rules": __version__, "torch": torch.__version__},
            "made": datetime.now(UTC),
            "data": str(self.fasta),
            "data_sha256": file_sha256(self.fasta),
            "open_frames": self.manifest.open_frames,
        }


def check_bundle(bundle: Bundle, device: torch.device, precision: str, settings: Embedding) -> None:
    """Compare all hashes and embed the self-check batch twice. Raises ModelError."""
    bundle.check(*bundle.card.sha256)
    networks = Networks.open(bundle, device, precision)
    if not torch.equal(self_check(networks, settings), self_check(networks, settings)):
        raise ModelError(f"{bundle.folder}: {device} gives other numbers each time: a bad device")


def verify_precision(
    bundle: Bundle, data: Data, device: torch.device, precision: str, settings: Embedding
) -> Verification:
    """Embed the data in fp32 and in `precision`, and compare embeddings, scores and calls."""
    networks = {name: Networks.open(bundle, device, name) for name in (EXACT, precision)}
    comparison = _Comparison(bundle, data.manifest.windows)
    for chunk in data.chunks():
        embedded = {name: embed_chunk(chunk, used, settings) for name, used in networks.items()}
        comparison.add(chunk, embedded[EXACT], embedded[precision])
    return Verification(
        precision=precision, **comparison.result(), **data.described(bundle, device)
    )


class _Comparison:
    """What differs between two embeddings of the same open frames, collected chunk by chunk."""

    def __init__(self, bundle: Bundle, windows: int) -> None:
        self.classifier = bundle.open_classifier() if bundle.card.classifier else None
        self.windows = windows
        self.consensus = Consensus.empty(windows), Consensus.empty(windows)
        self.cosine = {"dnabert_s": 1.0, "esm2": 1.0}
        self.recomputed = self.flips = 0
        self.differences: list[np.ndarray[Any, Any]] = []

    def add(self, chunk: Chunk, exact: Embeddings, other: Embeddings) -> None:
        pairs = {
            "dnabert_s": (exact.dnabert_s, other.dnabert_s),
            "esm2": (exact.esm2, other.esm2),
        }
        for name, (reference, tested) in pairs.items():
            cosine = float(F.cosine_similarity(reference, tested).min())
            self.cosine[name] = min(self.cosine[name], cosine)
        self.recomputed += other.notes.get("recomputed_in_fp32", 0)
        if self.classifier is None:
            return
        one, two = (self.classifier.scores(e.dnabert_s, e.esm2).numpy() for e in (exact, other))
        self.flips += int(((one[:, 1] >= one[:, 0]) != (two[:, 1] >= two[:, 0])).sum())
        self.differences.append(np.abs(one[:, 1] - two[:, 1]))
        for consensus, scores in zip(self.consensus, (one, two), strict=True):
            consensus.add_chunk(ScoredChunk(chunk.table, scores))

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(
            ("label_flips", "call_flips", "score_max", "score_p999")
        )
        if self.classifier:
            differences = np.concatenate(self.differences)
            exact, other = self.consensus
            found = {
                "label_flips": self.flips,
                "call_flips": int((exact.virus != other.virus).sum()),
                "score_max": float(differences.max()),
                "score_p999": float(np.quantile(differences, 0.999)),
            }
        return {
            "windows": self.windows,
            "recomputed_in_fp32": self.recomputed,
            "cosine_min": self.cosine,
            **found,
        }


def verify(
    bundle: Bundle,
    device: torch.device,
    precision: str,
    settings: Embedding,
    fasta: Path | None,
) -> Iterator[Verification]:
    """Check the bundle; then yield what was measured on the data, if there are any, and keep it.

    It is kept after it was yielded: a bundle that cannot be written to costs no results.
    """
    if fasta and precision == EXACT:
        raise ModelError("fp32 is the reference: add --precision")
    check_bundle(bundle, device, precision, settings)
    if fasta is None:
        return
    with tempfile.TemporaryDirectory(prefix="virnuc-verify-") as folder:
        data = Data(fasta, bundle.card.window, Path(folder))
        known = read_verified(bundle.folder, bundle.card.fingerprint)
        run = verify_precision(bundle, data, device, precision, settings)
        yield run
        write_verified(bundle.folder, known.with_precision(run))
