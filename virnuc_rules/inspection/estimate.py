"""What a run will take: counted from its samples, before any of it is embedded."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from virnuc_rules.bundles.definition import with_window
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.chunking.windows import count, span
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.embedding.tasks import FLOAT32
from virnuc_rules.errors import InputError
from virnuc_rules.files.atomic import writing
from virnuc_rules.inspection.rates import TABLE, Model, Rate, measured, tokens
from virnuc_rules.planning import products

# Bytes and inodes, fitted to the demo and reads of it: benchmarks/estimate.py (docs/scale.md).
_FRAME, _RESULT, _SCORES = 43, 700, 900  # the name of a frame; the rest of a result file; of scores
_TABLES = {"contigs": 250, "windows": 116, "open_frames": 166, "bases": 0.15}  # a sixth is viral
_SAMPLE, _REPORT = 20_000, 209_000  # ends of tables, logs; the page without contigs, figures
_LISTED, _DRAWN = (65, 100_000), (4 / 3, 3_000_000)  # a contig and a window in the page; at most
_SAMPLE_INODES, _WORKER_INODES, _RUN_INODES = 30, 4, 48
_SHARDS = 256  # folders of results, each with a note that it is finished
_CLASSES = 2


class Time(BaseModel):
    """The time of the workers on a kind of device."""

    device: str
    source: str  # of its speed
    device_hours: float  # of all workers together
    wall_hours: float


class Estimate(BaseModel):
    """A run of all samples, whatever of it is done already."""

    samples: int
    unusable: list[str]  # a line for each sample whose files cannot be used; it is not counted
    fraction: float  # of the windows that were searched for open frames
    contigs: int
    bases: int
    windows: int
    open_frames: int
    chunks: int
    model: str
    tokens: int  # of ESM-2
    embeddings_bytes: int
    scores_bytes: int
    other_bytes: int  # chunk folders, tables, report, logs
    inodes: int
    workers: int
    times: list[Time]

    def lines(self) -> Iterator[str]:
        """Yield what a user reads."""
        some = f", from {self.fraction:.3g} of the windows" * (self.fraction < 1)
        yield f"{self.samples:,} samples, {self.contigs:,} contigs, {self.bases:,} bases"
        yield (
            f"{self.windows:,} windows, {self.open_frames:,} open frames, {self.chunks:,} chunks, "
            f"{self.tokens:,} tokens of ESM-2{some}"
        )
        with_embeddings = _size(self.other_bytes + self.embeddings_bytes)
        with_scores = _size(self.other_bytes + self.scores_bytes)
        yield (
            f"disk: {with_embeddings} with embeddings, {with_scores} with only their scores "
            f"(keep_embeddings: false); {self.inodes:,} inodes"
        )
        yield f"{self.model}, workers: {self.workers:,}. Time, and hours of all workers together:"
        for time in self.times:
            hours = _clock(time.wall_hours), _clock(time.device_hours)
            yield f"  {time.device}: {hours[0]}, {hours[1]} ({time.source})"
        yield "not counted: chunk, predict and report (CPU), and waiting for a scheduler"
        yield from (f"cannot be used: {problem}" for problem in self.unusable)


def _clock(hours: float) -> str:
    short = str(timedelta(seconds=math.ceil(3600 * hours)))
    return short if hours < 10 else f"{hours:,.0f} hours"


def _size(count: float) -> str:
    power = min(4, int(math.log(max(1, count), 1000)))
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


class _Counts(NamedTuple):
    """The counts of a sample, or the sums of all."""

    contigs: int
    bases: int
    windows: int
    open_frames: int
    residues: int
    chunks: int
    chunk_bytes: int  # of chunk folders


def estimate(config: Config, fraction: float, measured_in: Path | None) -> Estimate:
    """Chunk the samples in a temporary folder; nothing is written to the results.

    fraction: of the windows that are searched for open frames: about every 1/fraction-th of each
    sample. Of samples that are chunked already the manifests are read. measured_in: results of a
    run whose workers' speed is taken; None: those of the config. Raises VirnucError.
    """
    config = with_window(config)
    model, every = Model.of(config), max(1, round(1 / fraction))
    counts, unusable = [_Counts(*[0] * len(_Counts._fields))], list[str]()
    for sample, files in read_samples(config.inputs.samples).items():
        try:
            counts.append(_of_sample(config, sample, files, every))
        except InputError as error:
            unusable.append(str(error))
    total, samples = _Counts(*map(sum, zip(*counts, strict=True))), len(counts) - 1
    frames, chunks, workers = total.open_frames, total.chunks, config.workflow.workers
    rates = [*measured(measured_in or config.run.results), *TABLE]
    return Estimate(
        samples=samples,
        unusable=unusable,
        fraction=1 / every,
        model=model.name,
        tokens=round(tokens(frames, total.residues)),
        embeddings_bytes=frames * (FLOAT32 * sum(model.widths) + _FRAME) + chunks * _RESULT,
        scores_bytes=frames * FLOAT32 * _CLASSES + chunks * _SCORES,
        other_bytes=_other_bytes(total, samples),
        inodes=_inodes(samples, chunks, workers),
        workers=workers,
        times=[_time(rate, model, total, workers) for rate in rates],
        **total._asdict(),  # what `Estimate` has no field for is left out
    )


def _of_sample(config: Config, sample: str, files: Sequence[Path], every: int) -> _Counts:
    """Count a sample, from its chunk folder if it is up to date. Raises InputError."""
    folder = RunFolder(config.run.results).chunks(sample)
    made = products.chunks(folder, config.chunking, files).current()
    if made and made.problem:
        raise InputError(made.problem)
    if made:
        return _counted(folder)
    from virnuc_rules.chunking.writer import write_chunks

    with tempfile.TemporaryDirectory(prefix="virnuc-estimate-") as temporary:
        out, picked = ChunkFolder(Path(temporary, "chunks")), Path(temporary, "windows.fa")
        if every == 1:
            write_chunks(files, out.path, config.chunking, sample=sample)
            return _counted(out)
        total = _pick(files, config.chunking, sample, every, picked)
        chunking = config.replace(duplicate_ids="keep").chunking  # windows of a contig have its id
        write_chunks([picked], out.path, chunking, sample=sample)
        return _counted(out, total)


class _Total(NamedTuple):
    """What is known of a whole sample, and how many of its windows were looked at."""

    contigs: int
    bases: int
    windows: int
    looked_at: int


def _pick(files: Sequence[Path], chunking: Chunking, sample: str, every: int, out: Path) -> _Total:
    """Write every n-th window of a sample as a contig of its own."""
    from virnuc_rules.reading.fastx import Sequences

    keep, window = chunking.duplicate_ids == "keep", chunking.window
    contigs = bases = windows = looked_at = 0
    with writing(out), out.open("wb") as handle:
        for contig in Sequences(files, sample, keep_duplicates=keep).contigs():
            total = count(contig.length, window)
            for index in range(-windows % every, total, every):
                looked_at += 1
                start, end = span(contig.length, index, 1, window)
                handle.write(b">%b\n%b\n" % (contig.id.encode(), contig.bases(start, end)))
            contigs, bases, windows = contigs + 1, bases + contig.length, windows + total
    return _Total(contigs, bases, windows, looked_at)


def _counted(folder: ChunkFolder, total: _Total | None = None) -> _Counts:
    """Read the counts of a chunk folder; total: of the sample of which it has some windows."""
    of = read_manifest(folder)
    total = total or _Total(of.contigs, of.bases, of.windows, of.windows)
    ratio = total.windows / max(1, total.looked_at)
    of_files = {
        folder.contigs.name: total.contigs / max(1, of.contigs),
        folder.bases.name: total.bases / max(1, of.bases),
    }
    size = sum(p.stat().st_size * of_files.get(p.name, ratio) for p in folder.path.glob("*.*"))
    frames, residues = of.open_frames * ratio, sum(entry.residues for entry in of.chunks) * ratio
    chunks = math.ceil(frames / of.chunking.chunk_size)
    return _Counts(*total[:3], round(frames), round(residues), chunks, round(size))


def _other_bytes(total: _Counts, samples: int) -> int:
    """Return the bytes of chunk folders, tables, report and logs."""
    tables: float = sum(each * getattr(total, name) for name, each in _TABLES.items())
    page = _LISTED[0] * min(total.contigs, _LISTED[1]) + _DRAWN[0] * min(total.windows, _DRAWN[1])
    return round(total.chunk_bytes + tables + page + samples * _SAMPLE + _REPORT)


def _inodes(samples: int, chunks: int, workers: int) -> int:
    """Return the files and folders of a run; the last ones are of the folders of results."""
    shards = round(_SHARDS * (1 - (1 - 1 / _SHARDS) ** chunks))
    jobs = samples * _SAMPLE_INODES + workers * _WORKER_INODES
    return _RUN_INODES + jobs + 2 * chunks + 2 * shards


def _time(rate: Rate, model: Model, total: _Counts, workers: int) -> Time:
    """Return the time of workers that share the chunks."""
    seconds = model.operations(total.open_frames, total.residues) / rate.operations
    rounds, used = math.ceil(total.chunks / workers), min(total.chunks, workers)
    wall = rate.start + rounds * seconds / total.chunks if total.chunks else 0.0
    return Time(
        device=rate.device,
        source=rate.said(model),
        device_hours=(seconds + used * rate.start) / 3600,
        wall_hours=wall / 3600,
    )
