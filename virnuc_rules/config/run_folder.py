"""Every path below `results`, for the library, the rules and the tests.

Names may be wildcards of Snakemake: `RunFolder(r).chunks("{sample}")`.
"""

from pathlib import Path

TABLES = ("orfs", "windows", "contigs", "regions")
FIGURES = ("scores", "viral_by_length", "calls")
MADE, DONE = "made.json", "done"  # see `files.made`
EVALUATION = "evaluation.html"  # in the results, and in the folder of a trained bundle


class ChunkFolder:
    """The files that `chunk` writes for a sample."""

    def __init__(self, path: Path) -> None:
        self.path, self.made, self.done = path, path / MADE, path / DONE
        self.manifest = path / "manifest.json"  # all chunks, with counts and hashes
        self.contigs = path / "contigs.parquet"  # a row for every contig
        self.windows = path / "windows.parquet"  # a row for every window
        self.bases = path / "bases.parquet"  # of all contigs, packed

    def chunk(self, index: int) -> Path:
        """Return the file of a chunk, 0-based."""
        return self.path / f"chunk_{index:06d}.parquet"

    def files(self, chunks: list[str]) -> list[Path]:
        """Return the paths of all files; `chunks` are names of chunk files."""
        tables = [self.manifest, self.contigs, self.windows, self.bases]
        return [*tables, *(self.path / name for name in chunks)]

    def chunk_files(self) -> list[Path]:
        """Return the existing chunk files, sorted."""
        return sorted(self.path.glob("chunk_*.parquet"))


class SampleFolder:
    """The files that `predict` writes for a sample.

    like_virnucpro: with the two files of VirNucPro, see `Chunking.like_virnucpro`.
    """

    def __init__(self, path: Path, sample: str, like_virnucpro: bool = True) -> None:
        self.path, self.sample, self.like_virnucpro = path, sample, like_virnucpro
        self.made, self.done = path / MADE, path / DONE
        self.upstream = path / "prediction_results.txt"  # VirNucPro's open frames
        self.upstream_windows = path / "prediction_results_highestscore.csv"  # tab-separated
        self.calls = path / "calls.json"  # prevalence, cutoff, expected false calls
        self.viral_fasta = path / "viral.fa.gz"
        self.region_fasta = path / "regions.fa.gz"
        self.score_track = path / "tracks" / f"{sample}.scores.bedgraph.gz"
        self.bed = path / "tracks" / f"{sample}.viral.bed"
        self.gff3 = path / "tracks" / f"{sample}.viral.gff3"

    def tsv(self, table: str) -> Path:
        """Return the path of one of TABLES as text."""
        return self.path / f"{table}.tsv"

    def parquet(self, table: str) -> Path:
        """Return the path of one of TABLES as Parquet."""
        return self.path / f"{table}.parquet"

    def files(self) -> list[Path]:
        """Return the paths of all files."""
        tables = [path for t in TABLES for path in (self.tsv(t), self.parquet(t))]
        upstream = [self.upstream, self.upstream_windows] if self.like_virnucpro else []
        tracks = [self.score_track, self.bed, self.gff3]
        return [*tables, *upstream, self.calls, self.viral_fasta, self.region_fasta, *tracks]


class VirusFiles:
    """The files of `collect`: the viral sequences of all samples."""

    def __init__(self, results: Path) -> None:
        self.tsv, self.parquet = results / "viruses.tsv", results / "viruses.parquet"
        self.fasta = results / "viruses.fa.gz"
        self.annotations = results / "annotations.tsv"  # how many of their rows were joined
        self.made, self.done = results / f"viruses.{MADE}", results / f"viruses.{DONE}"

    def files(self) -> list[Path]:
        """Return the paths of all files."""
        return [self.tsv, self.parquet, self.fasta, self.annotations]


class ReportFolder:
    """The page of `report`, in the results or at `--out`, and the files beside it."""

    def __init__(self, page: Path) -> None:
        self.page, self._folder = page, page.parent
        self.made, self.done = (self._folder / "report" / name for name in (MADE, DONE))
        self.summary = self._folder / "summary.tsv"  # a row for each sample
        self.provenance = self._folder / "provenance.json"
        self.multiqc_calls = self._folder / "multiqc" / "virnuc_calls_mqc.json"
        self.multiqc_summary = self._folder / "multiqc" / "virnuc_summary_mqc.json"

    def figure(self, name: str, kind: str) -> Path:
        """Return the path of one of FIGURES; kind: png or svg."""
        return self._folder / "report" / f"{name}.{kind}"

    def files(self) -> list[Path]:
        """Return the paths of all files."""
        figures = [self.figure(name, kind) for name in FIGURES for kind in ("png", "svg")]
        multiqc = [self.multiqc_calls, self.multiqc_summary]
        return [self.page, self.summary, self.provenance, *figures, *multiqc]


class EvaluationFiles:
    """The page of `evaluate`, in the results or at `--out`, and the files beside it."""

    def __init__(self, page: Path) -> None:
        self.page, self.json = page, page.with_suffix(".json")
        self.made, self.done = page.with_suffix(f".{MADE}"), page.with_suffix(f".{DONE}")

    def files(self) -> list[Path]:
        """Return the paths of all files."""
        return [self.page, self.json, self.made, self.done]


# How the name of a worker of all samples begins, not only of unfinished ones: for `evaluate`, which
# needs scores of all, and for `train`, which needs embeddings of all.
EVERY, TRAIN = "every_", "train_"


def worker_names(count: int, prefix: str = "") -> list[str]:
    """Return the names of workers in their stamps and logs; prefix: EVERY, TRAIN, or empty."""
    return [f"{prefix}{index}" for index in range(count)]


class RunFolder:
    """The folder `results` of a run."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.config = results / "config.yaml"  # the settings of the last run, for other commands
        self.chunk_folders = results / "chunks"
        self.report = ReportFolder(results / "report.html")
        self.viruses = VirusFiles(results)
        self.evaluation = EvaluationFiles(results / EVALUATION)
        self.embeddings = results / "embeddings"  # in folders by the first two digits of their keys
        self.damaged = results / "damaged"  # files that were found damaged, moved here
        self._queue = results / "queue"
        self.claims = self._queue / "claims"  # a file for each claimed chunk
        self.failures = self._queue / "failed"  # a file for each failed attempt
        self.finished = self._queue / "finished"  # empty files, see `queue.rounds`
        self.lost = self._queue / "lost"  # the claims of workers that were lost
        self.worker_reports = self._queue / "workers"  # a file for each worker
        self.metrics = self._queue / "metrics.prom"  # of all workers, for a monitoring system
        self.runs = self._queue / "runs"  # a file for each Snakemake at work
        self.stamps = self._queue / "stamps"  # empty: there while nothing is left to embed
        self.chunked = self.stamps / "chunked"  # there while all samples are chunked
        self.now = self.stamps / "now"  # newer than all products: an input of what is stale
        self.checked = self.stamps / "checked"  # there while no sample has a problem

    def chunks(self, sample: str) -> ChunkFolder:
        """Return the folder that `chunk` writes for a sample."""
        return ChunkFolder(self.chunk_folders / sample)

    def sample(self, sample: str, like_virnucpro: bool = True) -> SampleFolder:
        """Return the folder that `predict` writes for a sample; see `SampleFolder`."""
        return SampleFolder(self.results / sample, sample, like_virnucpro)

    def worker_stamp(self, worker: str) -> Path:
        """Return the stamp of a worker, by `worker_names`."""
        return self.stamps / f"worker_{worker}"

    def chunk_stamp(self, sample: str, chunk: str) -> Path:
        """Return the stamp of the job that embeds a chunk, a file name without its suffix."""
        return self.stamps / "chunks" / sample / chunk

    def log(self, *names: str) -> Path:
        """Return the path of the log of a job."""
        return self.results.joinpath("logs", *names[:-1], f"{names[-1]}.log")

    def benchmark(self, *names: str) -> Path:
        """Return the path of Snakemake's benchmark of a job."""
        return self.results.joinpath("benchmarks", *names[:-1], f"{names[-1]}.tsv")

    def own_names(self) -> set[str]:
        """Return VirNuc's names directly below `results`, which no sample may have."""
        viruses = (*self.viruses.files(), self.viruses.made, self.viruses.done)
        evaluation = self.evaluation.files()
        folders = (self.chunk_folders, self.embeddings, self.damaged, self._queue)
        jobs = (self.log("x"), self.benchmark("x"))
        paths = (self.config, *folders, *jobs, *viruses, *evaluation, *self.report.files())
        return {path.relative_to(self.results).parts[0] for path in paths}
