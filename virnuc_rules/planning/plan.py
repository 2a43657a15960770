"""What a run would do: which samples are up to date, and which chunks are left to embed.

The Snakefile makes a plan in Snakemake's main process before the jobs are known. `Plan.settle`
makes the empty outputs that Snakemake sees exist if and only if what they stand for is up to date.
"""

import glob
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import EVERY, TRAIN, RunFolder, worker_names
from virnuc_rules.config.sheet import Sheet
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.made import Made, Product, is_absent, touch
from virnuc_rules.models.card import BundleCard, is_bundle, read_card
from virnuc_rules.planning import products
from virnuc_rules.planning.lacking import lacking
from virnuc_rules.queue.store import Store


@dataclass
class SamplePlan:
    """What there is of a sample. None: not there, or not up to date."""

    files: list[Path]
    chunks: Made | None = None
    tables: Made | None = None
    lacking: list[Task] = field(default_factory=list)  # known where the sample is chunked
    unembedded: list[Task] = field(default_factory=list)  # the same for `train`

    @property
    def is_final(self) -> bool:
        """Tell whether nothing is left to do for the sample."""
        return self.tables is not None

    @property
    def has_tables(self) -> bool:
        """Tell whether the tables are there and up to date."""
        return self.is_final and not self.problem

    @property
    def problem(self) -> str:
        """Return why the sample's files could not be used; empty if they could."""
        return self.chunks.problem if self.chunks else ""

    def is_embedded(self, train: bool = False) -> bool:
        """Tell whether all chunks are known and have results; train: embeddings."""
        return self.chunks is not None and not (self.unembedded if train else self.lacking)


class Plan:
    """The plan of a run: call `look` or `settle` first."""

    def __init__(self, config: Config, sheet: Sheet) -> None:
        """Read the bundle's card. Raises ModelError where it is damaged."""
        self.config, self.sheet, self.folder = config, sheet, RunFolder(config.run.results)
        bundle = config.run.bundle
        self.card: BundleCard | None = read_card(bundle) if is_bundle(bundle) else None
        self.is_labelled = "label" in sheet.table.columns
        self.samples = {name: SamplePlan(files) for name, files in sheet.samples.items()}
        self.has_viruses = self.has_report = False
        self._before: set[Path] = set()  # empty outputs that existed when `settle` began

    def chunks(self, sample: str) -> Product:
        """Return the chunk folder of a sample as a product."""
        files = self.samples[sample].files
        return products.chunks(self.folder.chunks(sample), self.config.chunking, files)

    def tables(self, sample: str) -> Product | None:
        """Return the tables of a sample as a product; None while they cannot be up to date."""
        chunks, config = self.samples[sample].chunks, self.config
        if chunks is None or self.card is None:
            return None
        return products.tables(
            self.folder.sample(sample), chunks.key, self.card,
            config.embedding, config.calling, config.probability,
        )  # fmt: skip

    def viruses(self) -> Product | None:
        """Return the viral sequences of all samples as a product; None: cannot be up to date."""
        is_final = self.card and all(plan.is_final for plan in self.samples.values())
        return products.viruses(self.folder, self.sheet) if is_final else None

    def report(self) -> Product | None:
        """Return the report as a product; None while it cannot be up to date."""
        viruses = self.viruses()
        if self.card is None or viruses is None or viruses.current() is None:
            return None
        return products.report(self.config, self.card, self.sheet)

    def settle(self) -> None:
        """Look at all products; make an empty output exist iff what it stands for is up to date."""
        self._before = {path for path in self.folder.stamps.rglob("*") if path.is_file()}
        self._see(settle)
        self.has_viruses = settle(self.viruses(), self.folder.viruses.done) is not None
        self.has_report = settle(self.report(), self.folder.report.done) is not None
        self._settle_stamps()
        if self.folder.results.is_dir():  # a dry run makes no folder
            # Snakemake takes a newer file with the same content for unchanged.
            self.folder.now.parent.mkdir(parents=True, exist_ok=True)
            self.folder.now.write_text(f"{time.time_ns()}\n")

    def look(self) -> None:
        """Look at all products, and change nothing. Raises ChunkError for a damaged manifest."""
        self._see(lambda product, _: product.current() if product else None)

    def _see(self, see: Callable[[Product | None, Path], Made | None]) -> None:
        """Look at samples and their results; `see` returns the record of what is up to date."""
        for sample, plan in self.samples.items():
            done = self.folder.chunks(sample).done
            plan.chunks = see(self.chunks(sample), done)
            if plan.problem and any(map(is_absent, plan.files)):
                plan.chunks = see(None, done)  # neither chunks nor a file to make them of
            plan.tables = see(self.tables(sample), self.folder.sample(sample).done)
        self._look_for_results()

    def _look_for_results(self) -> None:
        if self.card is None:
            return
        run, embedding = self.config.run, self.config.embedding
        store, tasks = Store(run.results), Tasks.of(run, embedding)
        strict = Tasks.of(run, embedding, need_embeddings=True) if self.can_train else tasks
        for sample, plan in self.samples.items():
            if self._must_be_embedded(plan):
                plan.lacking = plan.unembedded = lacking(strict.of_sample(sample), store)
                if plan.unembedded and strict is not tasks:  # some of these may have scores
                    keys = {task.key for task in plan.unembedded}
                    rest = (task for task in tasks.of_sample(sample) if task.key in keys)
                    plan.lacking = lacking(rest, store)

    @property
    def can_train(self) -> bool:
        """Tell whether `train` may read the results."""
        return self.is_labelled and self.config.run.keep_embeddings

    def _must_be_embedded(self, plan: SamplePlan) -> bool:
        """Tell whether results of a sample are needed; train and evaluate need those of all."""
        is_chunked = plan.chunks is not None and not plan.problem
        return is_chunked and (self.is_labelled or not plan.is_final)

    def _settle_stamps(self) -> None:
        config, every = self.config, self.samples.values()
        for prefix in ("", EVERY, TRAIN):
            needed = [self.samples[sample] for sample in self.needed(bool(prefix))]
            all_embedded = all(plan.is_embedded(prefix == TRAIN) for plan in needed)
            present = self.card is not None and all_embedded
            for worker in worker_names(config.workflow.workers, prefix):
                self._set(self.folder.worker_stamp(worker), present)
        self._set(self.folder.chunked, self.card is not None and self.are_chunked())
        self._set(self.folder.checked, all(p.is_final and not p.problem for p in every))
        if not config.workflow.persistent_models:
            for sample, plan in self.samples.items():
                self._settle_chunk_stamps(sample, plan)

    def _settle_chunk_stamps(self, sample: str, plan: SamplePlan) -> None:
        if self.card is None or plan.chunks is None:
            # What the run will embed is not known yet: other chunks have the same names.
            for stamp in self.folder.chunk_stamp(sample, "any").parent.glob("*"):
                self._set(stamp, False)
        elif self._must_be_embedded(plan):
            left = {task.path.name for task in plan.unembedded}  # one stamp for all that need it
            for entry in read_manifest(self.folder.chunks(sample)).chunks:
                stamp = self.folder.chunk_stamp(sample, Path(entry.file).stem)
                self._set(stamp, entry.file not in left)

    def _set(self, stamp: Path, present: bool) -> None:
        """Make a stamp exist or not; one that exists is newer than all chunk folders."""
        if present:
            touch(stamp)
        elif stamp in self._before:
            stamp.unlink(missing_ok=True)

    def are_chunked(self) -> bool:
        """Tell whether the chunk folders of all samples are up to date."""
        return all(plan.chunks for plan in self.samples.values())

    def needed(self, every: bool) -> list[str]:
        """Return the samples whose chunks workers embed: every one, or those that are not final."""
        return [name for name, plan in self.samples.items() if every or not plan.is_final]

    def edges(self, product: Product | None, files: list[Path]) -> list[Path]:
        """Return the files of the user that Snakemake shall see as inputs of a product's job.

        Where the product is up to date only those that exist and are older: it was compared by
        content, so an archived file or a strange time makes no job. Else all, but for files with a
        time in the future, or that may not be read (Snakemake reads small ones itself): Snakemake
        would fail the job.
        """
        times = {path: _time(path) for path in files}
        if product is None or not product.done.exists():
            now = time.time_ns()
            return [
                p for p, at in times.items() if at is None or (at <= now and os.access(p, os.R_OK))
            ]
        done = product.done.stat().st_mtime_ns
        return [path for path, at in times.items() if at is not None and at <= done]

    def check_inputs(self) -> None:
        """Raise VirnucError for the first missing file of a sample that must be chunked.

        Also where the bundle cannot give the probabilities that are asked for.
        """
        if self.card and not self.is_labelled:  # labelled samples may be there to fit a model
            self.card.check_max_fdr(self.config.probability.max_fdr)
        for sample, plan in self.samples.items():
            for path in plan.files if plan.chunks is None else []:
                if problem := _absence(path):
                    sheet = self.sheet.table.path
                    raise VirnucError(f"{sheet}: sample {sample}: {path}: {problem}")


def _time(path: Path) -> int | None:
    """Return the time of a file, or of a link to it; None where it cannot be looked at."""
    try:
        return max(path.stat().st_mtime_ns, path.lstat().st_mtime_ns)
    except OSError:
        return None


def _absence(path: Path) -> str:
    """Return why there is no such file; empty if there is one."""
    try:
        problem = "" if path.exists() else "no such file"
    except OSError as error:  # such as a name that is too long
        problem = error.strerror or str(error)
    return "no file matches" if problem and glob.has_magic(str(path)) else problem


def settle(product: Product | None, done: Path) -> Made | None:
    """Settle a product; None: it cannot be up to date."""
    if product:
        return product.settle()
    done.unlink(missing_ok=True)
    return None
