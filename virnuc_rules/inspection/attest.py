"""A bundle compared with the code of others, and with what the original VirNucPro recorded."""

import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from Bio.SeqIO.FastaIO import SimpleFastaParser
from torch import Tensor

from virnuc_rules.bundles.definition import Definition
from virnuc_rules.bundles.fetch import Fetched
from virnuc_rules.bundles.pickles import read_pickle
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
_VIRNUCPRO = (  # files: open frames, embeddings, features, scores and calls
    "*nucleotide.fa", "*protein.faa", "*DNABERT_S.pt", "*ESM.pt", "*merged.pt",
    "prediction_results.txt", "prediction_results_highestscore.csv",
)  # fmt: skip
_Difference = tuple[str, float, float]  # name, greatest value, limit


def attest(
    definition: Definition, bundle: Bundle, fetched: dict[str, Fetched], settings: Embedding, *,
    device: torch.device, precision: str, fasta: Path, golden: Path | None, frames: int,
) -> dict[str, Any]:  # fmt: skip
    """Return a report as plain data. The networks are in memory one after the other.

    Raises VirnucError for a file that cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="virnuc-attest-") as folder:
        data = Data(fasta, bundle.card.window, Path(folder), frames)
        chunks, about = [next(data.chunks())], data.described(bundle, device)
    recorded = {kind: _recorded(golden, kind) for kind in _VIRNUCPRO} if golden else {}
    if golden:
        chunks.append(_recorded_frames(golden, recorded))
    found, speed = _embed(bundle, device, EXACT, chunks, settings)
    speeds, differences = {EXACT: speed}, list(_others(found[0], chunks[0], fetched, device))
    if golden:
        differences += _compared(bundle, found[1], recorded)
    if precision != EXACT:
        _, speeds[precision] = _embed(bundle, device, precision, chunks[:1], settings)
    versions = {"python": platform.python_version(), **about["versions"], **reference_versions()}
    origins = {name: bundle.card.source[name] for name in definition.sources}
    return {
        "attested": definition.name,
        "versions": {name: str(version) for name, version in versions.items()},
        "device": f"{about['device']} ({about['device_name']})",
        "sources": {name: origin.model_dump(exclude_none=True) for name, origin in origins.items()},
        "sha256_unknown_before": [file for _, file in definition.unpinned()],
        "fingerprint_of_embeddings": bundle.card.fingerprint,
        "data": {"file": fasta.name, "sha256": about["data_sha256"]},
        "open_frames": len(chunks[0].ids),
        # Of values above 1: of their fraction.
        "greatest_differences_in_fp32": {
            name: {"value": float(f"{value:.2g}"), "limit": limit}
            for name, value, limit in differences
        },
        "open_frames_a_second": {name: round(rate, 1) for name, rate in speeds.items()},
    }


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
) -> Iterator[_Difference]:
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


def _difference(name: str, found: Tensor, expected: Tensor, limit: float) -> _Difference:
    if found.shape != expected.shape:
        raise ModelError(f"{name}: {list(expected.shape)} values, not {list(found.shape)}")
    relative = (found - expected).abs() / expected.abs().clamp(min=1)
    return name, float(relative.max()), limit


def _recorded(folder: Path, pattern: str) -> pd.DataFrame:
    """Read VirNucPro's files of one kind: a row for each open frame or window."""
    tables = [pd.DataFrame()]
    for path in sorted(folder.rglob(pattern)):
        try:
            with environment_named(path):
                tables.append(_table(path))
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise ModelError(f"{path}: not a file of VirNucPro ({reason})") from None
    return pd.concat(tables)


def _table(path: Path) -> pd.DataFrame:
    if path.suffix in (".fa", ".faa"):
        with path.open() as file:
            records = {title.split()[0]: [text] for title, text in SimpleFastaParser(file)}
        return pd.DataFrame.from_dict(records, orient="index")
    if path.suffix != ".pt":
        table = pd.read_csv(path, sep="\t", index_col=0)
        return table[["score1", "score2"] if "score1" in table else ["Is_Virus"]].astype(float)
    content = read_pickle(path)
    (ids,) = (content[key] for key in ("nucleotide", "proteins", "ids") if key in content)
    rows = [row["mean_representation"] if isinstance(row, dict) else row for row in content["data"]]
    return pd.DataFrame(np.stack(rows), index=ids)


def _recorded_frames(folder: Path, recorded: dict[str, pd.DataFrame]) -> Chunk:
    bases, proteins = recorded["*nucleotide.fa"], recorded["*protein.faa"]
    ids = bases.index.intersection(proteins.index)
    if ids.empty or all(ids.intersection(recorded[kind].index).empty for kind in _VIRNUCPRO[2:]):
        raise ModelError(f"{folder}: lacks {', '.join(_VIRNUCPRO)}, or they have other open frames")
    sequences = (table.loc[ids, 0].tolist() for table in (bases, proteins))
    return Chunk(ids.tolist(), *sequences, CHUNK_SCHEMA.empty_table())  # type: ignore[call-arg]


def _compared(
    bundle: Bundle, found: Embeddings, recorded: dict[str, pd.DataFrame]
) -> Iterator[_Difference]:
    """Compare with what VirNucPro recorded for the same open frames."""
    own = [found.dnabert_s, found.esm2, torch.cat([found.dnabert_s, found.esm2], dim=1)]
    if bundle.card.classifier:
        own.append(bundle.open_classifier().scores(found.dnabert_s, found.esm2))
    tables = [pd.DataFrame(rows.numpy(), index=found.ids) for rows in own]
    if bundle.card.classifier:
        # A window's id is that of its frames without the frame, such as F1.
        best = tables[-1].groupby(tables[-1].index.str[:-2]).max()
        best = best[(best[0] - best[1]).abs() > _RECORDED]  # else rounding may change the call
        tables.append((best[1] >= best[0]).astype(float).to_frame())
    for kind, table in zip(_VIRNUCPRO[2:], tables, strict=False):
        ids = table.index.intersection(recorded[kind].index)
        if len(ids):
            one, two = (torch.tensor(t.loc[ids].to_numpy()) for t in (table, recorded[kind]))
            yield _difference(f"VirNucPro's {kind} ({len(ids)} rows)", one, two, _RECORDED)
