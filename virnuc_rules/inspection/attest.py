"""A bundle compared with the code of others, and with what the original VirNucPro recorded."""

import csv
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from virnuc_rules import __version__
from virnuc_rules.bundles.checkpoints import read_pickle
from virnuc_rules.bundles.definition import Definition
from virnuc_rules.bundles.fetch import Fetched
from virnuc_rules.bundles.verified import EXACT
from virnuc_rules.chunking.format import CHUNK_SCHEMA, Chunk
from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.errors import ModelError, one_line
from virnuc_rules.files.environment import environment_named
from virnuc_rules.inspection.references import REFERENCES, reference_versions
from virnuc_rules.inspection.verify import Data
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.device import clear_caches, matmul_precision

# Limits of differences. VirNucPro's files come from other devices, where attention of DNABERT-S may
# be in fp16.
_SAME, _RECORDED = 1e-4, 1e-2
_SECONDS = 10  # in which speed is measured, at least
_FILES = {  # of VirNucPro
    "nucleotide": "*nucleotide.fa",
    "protein": "*protein.faa",
    "DNABERT-S": "*DNABERT_S.pt",
    "ESM-2": "*ESM.pt",
    "features": "*merged.pt",
    "scores": "prediction_results.txt",
    "calls": "prediction_results_highestscore.csv",
}
_Rows = dict[str, Any]  # by VirNucPro's id of an open frame or window: a sequence, or numbers [N]


class Difference(NamedTuple):
    """The greatest difference of a value; of one above 1, of its fraction."""

    name: str
    value: float
    limit: float


def attest(
    definition: Definition, bundle: Bundle, fetched: dict[str, Fetched], settings: Embedding, *,
    device: torch.device, precision: str, fasta: Path, golden: Path | None, frames: int,
) -> tuple[str, list[Difference]]:  # fmt: skip
    """Return a report and the differences in it. The networks are in memory one after the other.

    Raises VirnucError for a file that cannot be used.
    """
    packages = {"virnuc_rules": __version__, "python": platform.python_version()}
    packages |= {"torch": torch.__version__, **reference_versions()}
    recorded = {key: _recorded(golden, files) for key, files in _FILES.items()} if golden else {}
    with tempfile.TemporaryDirectory(prefix="virnuc-attest-") as folder:
        data = Data(fasta, bundle.card.window, Path(folder), frames)
        chunks, about = [next(data.chunks())], data.described(bundle, device)
    if golden:
        chunks.append(_recorded_chunk(golden, recorded, frames))
    found, speed = _embed(bundle, device, EXACT, chunks, settings)
    speeds, rows = {EXACT: speed}, list(_others(found[0], chunks[0], fetched, device))
    if golden:
        rows += _compared(bundle, found[1], recorded)
    if precision != EXACT:
        _, speeds[precision] = _embed(bundle, device, precision, chunks[:1], settings)
    lines = [
        f"virnuc-rules models attest {definition.name}",
        ", ".join(f"{name} {version}" for name, version in packages.items()),
        f"{about['device']} ({about['device_name']}), compared in {EXACT}",
        f"{len(chunks[0].ids)} open frames of {fasta.name}, sha256 {about['data_sha256']}",
        *_sources(definition, bundle, fetched),
        "greatest differences (of values above 1: of their fraction)",
        *(f"  {row.name:<40} {row.value:.2g} (limit {row.limit:g})" for row in rows),
        *(f"{rate:,.1f} open frames a second in {name}" for name, rate in speeds.items()),
    ]
    return "\n".join(lines), rows


def _sources(definition: Definition, bundle: Bundle, fetched: dict[str, Fetched]) -> Iterator[str]:
    """List the files that the bundle was made of, which `attested_bundle` has compared."""
    unpinned = definition.unpinned()
    for name in definition.sources:
        origin = bundle.card.source[name]
        at = f" at {origin.revision}" if origin.revision else ""
        yield f"{name}: {origin.origin}{at}, {origin.parameters:,} parameters"
        for file, sha256 in fetched[name].sha256.items():
            note = " (the definition has none)" if (name, file) in unpinned else ""
            yield f"  {file} sha256 {sha256}{note}"


def _embed(
    bundle: Bundle, device: torch.device, precision: str, chunks: list[Chunk], settings: Embedding
) -> tuple[list[Embeddings], float]:
    """Embed chunks; then measure the speed, in open frames of the first a second."""
    networks = Networks.open(bundle, device, precision)
    found = [embed_chunk(chunk, networks, settings) for chunk in chunks]
    start, count = time.monotonic(), 0
    while not count or time.monotonic() - start < _SECONDS:
        count += len(embed_chunk(chunks[0], networks, settings).ids)
    speed = count / (time.monotonic() - start)
    del networks
    clear_caches(device)
    return found, speed


@torch.inference_mode()
def _others(
    found: Embeddings, chunk: Chunk, fetched: dict[str, Fetched], device: torch.device
) -> Iterator[Difference]:
    """Compare with others' code, which opens the original checkpoints one after the other."""
    for name, (network, opened) in REFERENCES.items():
        checkpoint, is_dna = fetched[network].path, network == "dnabert_s"
        if name == "fair-esm" and checkpoint.is_dir():
            continue  # of the hub, which it cannot read
        embed = opened(checkpoint, device)
        with matmul_precision(EXACT):
            sequences = chunk.nucleotide if is_dna else chunk.protein
            expected = torch.stack([embed(sequence).cpu() for sequence in sequences])
        del embed
        clear_caches(device)
        yield _difference(name, found.dnabert_s if is_dna else found.esm2, expected, _SAME)


def _difference(name: str, found: Tensor, expected: Tensor, limit: float) -> Difference:
    if found.shape != expected.shape:
        raise ModelError(f"{name}: {list(expected.shape)} values, not {list(found.shape)}")
    relative = (found - expected).abs() / expected.abs().clamp(min=1)
    return Difference(name, float(relative.max()), limit)


def _recorded(folder: Path, pattern: str) -> _Rows:
    """Read VirNucPro's files of one kind, also in folders below."""
    found: _Rows = {}
    for path in sorted(folder.rglob(pattern)):
        try:
            with environment_named(path):
                found |= _READERS[path.suffix](path)
        except (OSError, ValueError, TypeError, LookupError, csv.Error) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise ModelError(f"{path}: not a file of VirNucPro ({reason})") from None
    return found


def _fasta(path: Path) -> _Rows:
    records = (record.split("\n", 1) for record in path.read_text().split(">")[1:])
    return {header.split()[0]: "".join(lines.split()) for header, lines in records}


def _pickle(path: Path) -> _Rows:
    content = read_pickle(path)
    (ids,) = (content[key] for key in ("nucleotide", "proteins", "ids") if key in content)
    rows = (row["mean_representation"] if isinstance(row, dict) else row for row in content["data"])
    return {key: torch.as_tensor(row).float() for key, row in zip(ids, rows, strict=True)}


def _scores(path: Path) -> _Rows:
    rows = csv.reader(path.read_text().splitlines()[1:], delimiter="\t")
    return {key: torch.tensor([float(one), float(two)]) for key, _, one, two in rows}


def _calls(path: Path) -> _Rows:
    rows = csv.reader(path.read_text().splitlines()[1:], delimiter="\t")
    return {key: torch.tensor([float(call == "True")]) for key, call in rows}


_READERS = {".fa": _fasta, ".faa": _fasta, ".pt": _pickle, ".txt": _scores, ".csv": _calls}


def _recorded_chunk(folder: Path, recorded: dict[str, _Rows], frames: int) -> Chunk:
    bases, proteins = recorded["nucleotide"], recorded["protein"]
    ids = [key for key in bases if key in proteins][:frames]
    if not ids:
        both = f"{_FILES['nucleotide']} and {_FILES['protein']}"
        raise ModelError(f"{folder}: no open frames of VirNucPro in {both}")
    sequences = ([found[key] for key in ids] for found in (bases, proteins))
    return Chunk(ids, *sequences, CHUNK_SCHEMA.empty_table())  # type: ignore[call-arg]


def _compared(
    bundle: Bundle, found: Embeddings, recorded: dict[str, _Rows]
) -> Iterator[Difference]:
    """Compare with what VirNucPro recorded for the same open frames, as far as there is any."""
    features = torch.cat([found.dnabert_s, found.esm2], dim=1)
    tensors = {"DNABERT-S": found.dnabert_s, "ESM-2": found.esm2, "features": features}
    if bundle.card.classifier:
        classifier = bundle.open_classifier()
        tensors["scores"] = classifier.scores(found.dnabert_s, found.esm2)
    own = {key: dict(zip(found.ids, rows, strict=True)) for key, rows in tensors.items()}
    if "scores" in own:
        own["calls"] = _called(own["scores"], recorded["nucleotide"].keys() - own["scores"])
    for key, values in own.items():
        known = recorded[key]
        if ids := [name for name in values if name in known]:
            one, two = (torch.stack([rows[name] for name in ids]) for rows in (values, known))
            yield _difference(f"VirNucPro's {key} ({len(ids)})", one, two, _RECORDED)


def _called(scores: _Rows, missing: set[str]) -> _Rows:
    """Call windows by the scores of all their open frames, where that is not up to rounding."""
    best: _Rows = {}
    for frame, pair in scores.items():
        window = frame[:-2]  # without the frame, such as F1
        best[window] = torch.maximum(best.get(window, pair), pair)
    unknown = {frame[:-2] for frame in missing}
    return {
        window: (pair[1:] >= pair[:1]).float()
        for window, pair in best.items()
        if window not in unknown and abs(float(pair[1] - pair[0])) > _RECORDED
    }
