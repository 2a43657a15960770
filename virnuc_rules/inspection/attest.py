"""A bundle compared with the code of others, and with what the original VirNucPro recorded."""

import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
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
    with tempfile.TemporaryDirectory(prefix="virnuc-attest-") as folder:
        data = Data(fasta, bundle.card.window, Path(folder), frames)
        chunks, about = [next(data.chunks())], data.described(bundle, device)
    if golden:
        chunks.append(_recorded_frames(golden, frames))
    found, speed = _embed(bundle, device, EXACT, chunks, settings)
    speeds, rows = {EXACT: speed}, list(_others(found[0], chunks[0], fetched, device))
    if golden:
        rows += _compared(bundle, found[1], golden)
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


def _recorded_frames(folder: Path, limit: int) -> Chunk:
    """Read open frames from VirNucPro's FASTA files: those that are in both kinds."""
    bases, proteins = (
        {
            header.split()[0]: "".join(lines.split())
            for path in sorted(folder.rglob(pattern))
            for header, lines in (r.split("\n", 1) for r in path.read_text().split(">")[1:])
        }
        for pattern in ("*nucleotide.fa", "*protein.faa")
    )
    ids = [key for key in bases if key in proteins][:limit]
    if not ids:
        raise ModelError(f"{folder}: no open frames that are in *nucleotide.fa and *protein.faa")
    return Chunk(
        ids, [bases[key] for key in ids], [proteins[key] for key in ids], CHUNK_SCHEMA.empty_table()
    )


def _recorded(folder: Path, pattern: str) -> pd.DataFrame:
    """Read VirNucPro's numbers of one kind, by open frame or window."""
    tables = [pd.DataFrame()]
    for path in sorted(folder.rglob(pattern)):
        try:
            with environment_named(path):
                tables.append(_numbers(path))
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise ModelError(f"{path}: not a file of VirNucPro ({reason})") from None
    return pd.concat(tables)


def _numbers(path: Path) -> pd.DataFrame:
    if path.suffix != ".pt":
        table = pd.read_csv(path, sep="\t", index_col=0)
        return table[["score1", "score2"] if "score1" in table else ["Is_Virus"]].astype(float)
    content = read_pickle(path)
    (ids,) = (content[key] for key in ("nucleotide", "proteins", "ids") if key in content)
    rows = [row["mean_representation"] if isinstance(row, dict) else row for row in content["data"]]
    return pd.DataFrame(np.stack(rows), index=ids)


def _compared(bundle: Bundle, found: Embeddings, golden: Path) -> Iterator[Difference]:
    """Compare with what VirNucPro recorded for the same open frames, as far as there is any."""
    own = {"*DNABERT_S.pt": found.dnabert_s, "*ESM.pt": found.esm2}
    own["*merged.pt"] = torch.cat([found.dnabert_s, found.esm2], dim=1)
    if bundle.card.classifier:
        classifier = bundle.open_classifier()
        own["prediction_results.txt"] = classifier.scores(found.dnabert_s, found.esm2)
    tables = {name: pd.DataFrame(rows.numpy(), index=found.ids) for name, rows in own.items()}
    if bundle.card.classifier:
        # Of windows all of whose frames are there, and whose call is not up to rounding.
        scores = tables["prediction_results.txt"]
        windows = scores.groupby(scores.index.str[:-2]).max()
        windows = windows[(windows[0] - windows[1]).abs() > _RECORDED]
        tables["prediction_results_highestscore.csv"] = (
            windows[[1]] >= windows[[0]].to_numpy()
        ).astype(float)
    for name, rows in tables.items():
        known = _recorded(golden, name)
        if len(both := rows.index.intersection(known.index)):
            one, two = (torch.tensor(table.loc[both].to_numpy()) for table in (rows, known))
            yield _difference(f"VirNucPro's {name} ({len(both)} rows)", one, two, _RECORDED)
