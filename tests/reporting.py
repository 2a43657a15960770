"""Results of a run as the documented tables have them, with numbers drawn at random."""

import gzip
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BUNDLE

from virnuc_rules import __version__
from virnuc_rules.chunking.manifest import Manifest
from virnuc_rules.chunking.windows import cut
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.prediction.tables import SCHEMAS

HOSTILE = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "a'b\"c|d,e&amp;f",
    "größe_chunk_1",
    "{{ 7 * 7 }}{% raw %}",
)


def make_results(folder: Path, samples: dict[str, int], called: float = 0.6) -> Config:
    """Write chunk manifests, tables and a worker's report of samples with so many contigs."""
    folder.mkdir(exist_ok=True)
    sheet = folder / "samples.tsv"
    sheet.write_text("sample\tpath\n" + "".join(f"{s}\t/data/{s}.fa\n" for s in samples))
    config = Config.of(samples=sheet, results=folder / "results", bundle=BUNDLE)
    for number, (name, contigs) in enumerate(samples.items()):
        _make_sample(config.run.results, name, contigs, called, np.random.default_rng(number))
    workers = RunFolder(config.run.results).worker_reports
    workers.mkdir(parents=True)
    report = {
        "worker": "0", "owner": "0-node-1-a", "pid": 1, "host": "node<1>", "device": "cpu",
        "precision": "bf16", "verified": False, "versions": {"torch": "2"},
        "started": "2026-01-01T00:00:00Z", "updated": "2026-01-01T01:00:00Z",
        "load_count": {"dnabert_s": 1, "esm2": 1}, "load_seconds": {"dnabert_s": 1, "esm2": 2},
        "chunks": 3, "open_frames": 1000, "seconds_computing": 20,
        "memory": [{"chunks": 1, "resident": 900, "device": None}], "cache_clears": 1,
        "exit_reason": "embedded 3 chunks, 1000 open frames",
    }  # fmt: skip
    (workers / "0.json").write_text(json.dumps(report))
    return config


def _make_sample(
    results: Path, name: str, contigs: int, called: float, draw: np.random.Generator
) -> None:
    length = np.exp(draw.uniform(5, 10, contigs)).astype(np.int64)
    windows = -(-length // 500)
    cutting = cut(length, np.zeros_like(length), windows, 500)
    contig = cutting.contig
    has_call = draw.random(len(contig)) < called
    score, non_viral = draw.random((2, len(contig)), np.float32)  # best of each, of any frame
    virus = has_call & (score >= non_viral)
    ids = np.array([f"NODE_{n}_length_{n}_cov_{n}.000000" for n in range(contigs)], object)
    ids[: len(HOSTILE)] = HOSTILE[:contigs]
    null = np.where(has_call, score, np.nan)
    columns = {
        "contig_index": contig, "contig": ids[contig], "window": cutting.number,
        "start": cutting.start, "end": cutting.end, "open_frames": has_call.astype(int),
        "best_frame": np.where(has_call, "F1", ""),
        "score_non_viral": pa.array(np.where(has_call, non_viral, np.nan), from_pandas=True),
        "score_virus": pa.array(null, from_pandas=True),
        "margin": pa.array(np.where(has_call, np.log(score / non_viral), np.nan), from_pandas=True),
        "probability": pa.nulls(len(contig)),
        "call": np.where(has_call, np.where(virus, "virus", "non_viral"), "no_call"),
        "reason": pa.array(np.where(has_call, None, "no_open_frame")),
    }  # fmt: skip
    _write(results / name, "windows", columns)
    n_called, n_virus = (np.bincount(contig[x], minlength=contigs) for x in (has_call, virus))
    mean = np.bincount(contig, np.where(has_call, score, 0), contigs) / np.maximum(1, n_called)
    mean = pa.array(np.where(n_called > 0, mean, np.nan), from_pandas=True)
    margin = np.bincount(contig, np.where(has_call, np.log(score / non_viral), 0), contigs)
    margin = pa.array(
        np.where(n_called > 0, margin / np.maximum(1, n_called), np.nan), from_pandas=True
    )
    share = n_virus / np.maximum(1, n_called)
    call = np.where(n_called == 0, "no_call", np.where(share >= 0.5, "virus", "non_viral"))
    columns = {
        "contig_index": np.arange(contigs), "contig": ids, "length": length, "windows": windows,
        "called_windows": n_called, "viral_windows": n_virus, "viral_fraction": share,
        "probability": pa.nulls(contigs), "margin": margin,
        "viral_fraction_all": n_virus / windows, "score_mean": mean, "score_median": mean,
        "score_max": mean, "score_viral": mean, "longest_run": n_virus,
        "terminal_repeat": pa.nulls(len(call), pa.string()), "call": call,
        "reason": pa.array(np.where(call == "no_call", "no_open_frame", None)),
    }  # fmt: skip
    _write(results / name, "contigs", columns)
    # Of every second contig a region, its first window; of every tenth one more, its last one.
    last = np.cumsum(windows) - 1
    first = last - windows + 1
    at = np.sort(np.concatenate([first[::2], last[::10][windows[::10] > 1]]))
    columns = {
        "contig_index": contig[at], "contig": ids[contig[at]], "start": cutting.start[at],
        "end": cutting.end[at], "windows": np.ones(len(at)), "evidence": np.ones(len(at)),
        "posterior": draw.uniform(0.5, 1, len(at)),
    }  # fmt: skip
    _write(results / name, "regions", columns)
    calls = SampleCalls(calls="min_*", cutoff=None, estimated=True, windows=None, contigs=None)
    SampleFolder(results / name, name).calls.write_text(calls.model_dump_json())
    chunks = RunFolder(results).chunks(name)
    chunks.path.mkdir(parents=True)
    manifest = Manifest(
        version=__version__, sources_sha256=["0" * 64],
        chunking=Chunking(window=500), contigs=contigs,
        bases=int(length.sum()), windows=len(contig), open_frames=int(has_call.sum()),
        reasons={"no_open_frame": int((~has_call).sum())}, chunks=[],
    )  # fmt: skip
    chunks.manifest.write_text(manifest.model_dump_json())


def _write(folder: Path, name: str, columns: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS[name]
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), folder / f"{name}.parquet")


def add_fasta(results: Path, samples: dict[str, int]) -> None:
    """Write the viral contigs and the regions of the tables as FASTA."""
    for name in samples:
        folder = SampleFolder(results / name, name)
        contigs = pq.read_table(folder.parquet("contigs")).to_pylist()
        viral = [(row["contig"], _bases(row)) for row in contigs if row["call"] == "virus"]
        parts = [
            (f"{row['contig']}:{row['start'] + 1}-{row['end']}",
             _bases(contigs[row["contig_index"]])[row["start"] : row["end"]])
            for row in pq.read_table(folder.parquet("regions")).to_pylist()
        ]  # fmt: skip
        for path, records in ((folder.viral_fasta, viral), (folder.region_fasta, parts)):
            text = "".join(f">{name} more\n{textwrap.fill(it, 60)}\n" for name, it in records)
            path.write_bytes(gzip.compress(text.encode()))


def _bases(row: dict[str, Any]) -> str:
    """Bases of a contig, others than those of its neighbours."""
    motif = "ACGGT" * (1 + row["contig_index"]) + "T"
    return (motif * row["length"])[: row["length"]]
