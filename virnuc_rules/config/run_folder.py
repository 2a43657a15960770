"""Every path below `results`: the library, the rules and the tests ask here.

A path may hold a wildcard of Snakemake in the place of a name: `RunFolder(r).chunks("{sample}")`.
"""

from dataclasses import dataclass
from pathlib import Path

TABLES = ("orfs", "windows", "contigs", "regions")
FIGURES = ("scores", "viral_by_length", "calls")
EVALUATION = "evaluation.html"  # in the results, and in the folder of a trained bundle


@dataclass(frozen=True, slots=True)
class ChunkFolder:
    """What `chunk` makes of a sample."""

    path: Path

    @property
    def manifest(self) -> Path:
        """Written last: a folder with a manifest is complete."""
        return self.path / "manifest.json"

    @property
    def contigs(self) -> Path:
        """A row for every contig."""
        return self.path / "contigs.parquet"

    @property
    def windows(self) -> Path:
        """A row for every window."""
        return self.path / "windows.parquet"

    def chunk(self, index: int) -> Path:
        """The open frames of a chunk, 0-based."""
        return self.path / f"chunk_{index:06d}.parquet"

    def chunk_files(self) -> list[Path]:
        """The chunk files that are there."""
        return sorted(self.path.glob("chunk_*.parquet"))


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """What `predict` makes of a sample."""

    path: Path
    sample: str

    def tsv(self, table: str) -> Path:
        """One of TABLES as text."""
        return self.path / f"{table}.tsv"

    def parquet(self, table: str) -> Path:
        """One of TABLES as Parquet."""
        return self.path / f"{table}.parquet"

    @property
    def upstream(self) -> Path:
        """VirNucPro's file of open frames."""
        return self.path / "prediction_results.txt"

    @property
    def upstream_windows(self) -> Path:
        """VirNucPro's file of windows (tab-separated in spite of its name)."""
        return self.path / "prediction_results_highestscore.csv"

    @property
    def viral_fasta(self) -> Path:
        """The contigs called virus; not there where the input cannot be read again."""
        return self.path / "viral.fa.gz"

    @property
    def score_track(self) -> Path:
        """bedGraph of the scores of windows."""
        return self.path / "tracks" / f"{self.sample}.scores.bedgraph.gz"

    @property
    def bed(self) -> Path:
        """Viral regions as BED."""
        return self.path / "tracks" / f"{self.sample}.viral.bed"

    @property
    def gff3(self) -> Path:
        """Viral regions as GFF3."""
        return self.path / "tracks" / f"{self.sample}.viral.gff3"

    def files(self) -> list[Path]:
        """Return all of them."""
        tables = [path for t in TABLES for path in (self.tsv(t), self.parquet(t))]
        tracks = [self.score_track, self.bed, self.gff3]
        return [*tables, self.upstream, self.upstream_windows, self.viral_fasta, *tracks]


@dataclass(frozen=True, slots=True)
class ReportFolder:
    """What `report` makes, beside its page: below `results`, or where `--out` puts the page."""

    page: Path

    @property
    def provenance(self) -> Path:
        """Inputs, settings, versions."""
        return self.page.parent / "provenance.json"

    def figure(self, name: str, kind: str) -> Path:
        """One of FIGURES; kind: png or svg."""
        return self.page.parent / "report" / f"{name}.{kind}"

    @property
    def multiqc_calls(self) -> Path:
        """MultiQC's bar chart of calls."""
        return self.page.parent / "multiqc" / "virnuc_calls_mqc.json"

    @property
    def multiqc_summary(self) -> Path:
        """MultiQC's table of samples."""
        return self.page.parent / "multiqc" / "virnuc_summary_mqc.json"

    def files(self) -> list[Path]:
        """Return all of them."""
        figures = [self.figure(name, kind) for name in FIGURES for kind in ("png", "svg")]
        return [self.page, self.provenance, *figures, self.multiqc_calls, self.multiqc_summary]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder `results` of a run."""

    results: Path

    @property
    def config(self) -> Path:
        """The settings of the last run; commands without `--configfile` take them from here."""
        return self.results / "config.yaml"

    @property
    def chunk_folders(self) -> Path:
        """The chunk folders of all samples."""
        return self.results / "chunks"

    def chunks(self, sample: str) -> ChunkFolder:
        """What `chunk` makes of a sample."""
        return ChunkFolder(self.chunk_folders / sample)

    def sample(self, sample: str) -> SampleFolder:
        """What `predict` makes of a sample."""
        return SampleFolder(self.results / sample, sample)

    @property
    def report(self) -> ReportFolder:
        """What `report` makes."""
        return ReportFolder(self.results / "report.html")

    @property
    def evaluation(self) -> Path:
        """The page of `evaluate`."""
        return self.results / EVALUATION

    @property
    def embeddings(self) -> Path:
        """The results of chunks, in folders by the first two digits of their keys."""
        return self.results / "embeddings"

    @property
    def _queue(self) -> Path:
        return self.results / "queue"

    @property
    def claims(self) -> Path:
        """A file for each chunk that a worker holds."""
        return self._queue / "claims"

    @property
    def failures(self) -> Path:
        """A file for each chunk that failed."""
        return self._queue / "failed"

    @property
    def worker_reports(self) -> Path:
        """A file for each worker."""
        return self._queue / "workers"

    @property
    def stamps(self) -> Path:
        """The outputs of workers that Snakemake knows."""
        return self._queue / "stamps"

    def log(self, *names: str) -> Path:
        """The log of a job."""
        return self._named("logs", ".log", names)

    def benchmark(self, *names: str) -> Path:
        """Snakemake's measurements of a job."""
        return self._named("benchmarks", ".tsv", names)

    def _named(self, folder: str, suffix: str, names: tuple[str, ...]) -> Path:
        path = self.results.joinpath(folder, *names)
        return path.with_name(path.name + suffix)

    def own_names(self) -> set[str]:
        """Return the names directly below `results` that are VirNuc's: no sample may have one."""
        evaluation = (self.evaluation, evaluation_json(self.evaluation))
        folders = (self.chunk_folders, self.embeddings, self._queue)
        jobs = (self.log("x"), self.benchmark("x"))
        paths = (self.config, *folders, *jobs, *evaluation, *self.report.files())
        return {path.relative_to(self.results).parts[0] for path in paths}


def evaluation_json(page: Path) -> Path:
    """Return where the numbers of an evaluation page are."""
    return page.with_suffix(".json")
