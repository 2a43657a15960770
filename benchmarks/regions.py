"""Viral regions of simulated insertions: found, false, and how far off their ends are.

    python benchmarks/regions.py [--auroc 0.97 0.9] [--insertions 1000]
        [--bundle demo/bundle] [--bundle-insertions 300]

A virus of 2 to 60 kb is inserted into a contig of cells; between insertions and in all the rest
there is no virus. Two ways:
- ideal: the scores of a classifier of stated AUROC, so that the method is measured apart from the
  classifier. Log odds of a window are normal with means +-d^2/2 and variance d^2, which are right
  odds by themselves, with d = sqrt(2) * quantile(AUROC). 35 % of the viral windows and 42 % of the
  others have no open frame, as in the data of the bundle of version 0.1. Contigs of 200 kb.
- bundle: pieces of the viral contigs of demo/data in its contigs of cells, through `chunk`, a
  worker and `predict`. The shipped bundle was not trained on them, but on relatives of some. The
  contigs are 20 kb of cells and an insertion of 2 kb to the length of the virus, at most 60 kb.
Prints for each: insertions of at least 5 kb and of less that are found (any base in a region),
false regions (no viral base) a Mb without virus, and the median error of both ends of those found.
"""

import argparse
import csv
import gzip
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from Bio import SeqIO
from scipy.stats import norm

from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config, WorkerSettings
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import Calibration
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.predict import predict
from virnuc_rules.prediction.regions import viral_regions
from virnuc_rules.serving.worker import Worker
from virnuc_rules.vocabulary import NO_REASON, Label, Reason

DEMO = Path(__file__).parents[1] / "demo/data"
WINDOW = 500  # bases
CONTIG, CELLS = 200_000, 20_000  # bases of a contig: ideal; of the cells around an insertion
SIZES, LONG = (2_000, 60_000), 5_000  # bases of an insertion
NO_OPEN_FRAME = {Label.VIRUS: 0.352, Label.NON_VIRAL: 0.419}


@dataclass
class Found:
    """What regions say of insertions."""

    found: dict[bool, list[bool]] = field(default_factory=lambda: {True: [], False: []})  # by LONG
    errors: list[float] = field(default_factory=list)
    false: int = 0
    bases: int = 0  # without virus

    def add(self, regions: list[tuple[int, int]], insertion: tuple[int, int], length: int) -> None:
        """Compare the regions of a contig with its insertion; all are starts and ends."""
        begin, end = insertion
        hits = [region for region in regions if region[0] < end and region[1] > begin]
        self.found[end - begin >= LONG].append(bool(hits))
        self.false += len(regions) - len(hits)
        self.bases += length - (end - begin)
        if hits:
            self.errors += [abs(hits[0][0] - begin), abs(hits[-1][1] - end)]

    def __str__(self) -> str:
        found = {
            of_size: f"{np.mean(hits):.1%}" if hits else "-" for of_size, hits in self.found.items()
        }
        rate = self.false / self.bases * 1e6
        return (
            f"found {found[True]} from {LONG:,} bp, {found[False]} of less; {rate:.3f} false a Mb; "
            f"ends off by {np.median(self.errors):,.0f} bp (median)"
        )


def ideal(auroc: float, insertions: int, draw: np.random.Generator) -> Found:
    """Insert into contigs whose windows have the scores of an ideal classifier."""
    d = np.sqrt(2) * norm.ppf(auroc)
    length = np.full(insertions, CONTIG)
    windows = cut(length, np.zeros(insertions, int), count(length, WINDOW), WINDOW)
    size = draw.integers(*SIZES, insertions)
    begin = draw.integers(0, CONTIG - size)
    last, first = (each[windows.contig] for each in (begin + size, begin))
    inside = np.minimum(windows.end, last) - np.maximum(windows.start, first)
    virus = inside > (windows.end - windows.start) / 2
    margin = (d * draw.normal(np.where(virus, d / 2, -d / 2))).astype(np.float32)
    silent = draw.random(len(virus)) < np.where(virus, *NO_OPEN_FRAME.values())
    margin[silent] = np.nan
    calibration = Calibration(
        method="temperature", temperature=1.0, classifier="", data=[], part="", windows={},
        log_loss={}, no_open_frame=NO_OPEN_FRAME,
    )  # fmt: skip
    calls = WindowCalls(
        contigs=insertions, index=windows.contig, start=windows.start, end=windows.end,
        score=margin, reason=np.where(silent, Reason.NO_OPEN_FRAME.code, NO_REASON),
        virus=margin >= 0, margin=margin, log_odds=Odds.of(calibration).evidence(margin, silent),
    )  # fmt: skip
    regions, result = viral_regions(calls, prevalence=0.5), Found()
    for contig in range(insertions):
        mine = regions.index == contig
        pairs = zip(regions.start[mine].tolist(), regions.end[mine].tolist(), strict=True)
        result.add(list(pairs), (int(begin[contig]), int(begin[contig] + size[contig])), CONTIG)
    return result


def demo_contigs() -> dict[str, list[str]]:
    """The labelled contigs of the demo, by label."""
    with (DEMO / "labels.tsv").open() as handle:
        label = {row["id"]: row["label"] for row in csv.DictReader(handle, delimiter="\t")}
    contigs: dict[str, list[str]] = {name: [] for name in Label}
    for path in sorted(DEMO.glob("*.fa.gz")):
        with gzip.open(path, "rt") as handle:
            for record in SeqIO.parse(handle, "fasta"):
                if record.id in label:
                    contigs[label[record.id]].append(str(record.seq))
    return contigs


def of_bundle(bundle: Path, insertions: int, draw: np.random.Generator) -> Found:
    """Insert into sequences, and let a bundle look for it."""
    contigs, truth = demo_contigs(), {}
    viruses = [bases for bases in contigs[Label.VIRUS] if len(bases) > SIZES[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "s.fa").open("w") as out:
            for number in range(insertions):
                virus = viruses[draw.integers(len(viruses))]
                size = int(draw.integers(SIZES[0], min(len(virus), SIZES[1])))
                at = int(draw.integers(0, len(virus) - size + 1))
                cells = "".join(draw.permutation(contigs[Label.NON_VIRAL])[:3])[:CELLS]
                begin = int(draw.integers(0, len(cells)))
                bases = cells[:begin] + virus[at : at + size] + cells[begin:]
                truth[f"c{number}"] = begin, begin + size, len(bases)
                out.write(f">c{number}\n{bases}\n")
        regions = run(folder, bundle)
    result = Found()
    for contig, (begin, end, length) in truth.items():
        result.add(regions.get(contig, []), (begin, end), length)
    return result


def run(folder: Path, bundle: Path) -> dict[str, list[tuple[int, int]]]:
    """Chunk, embed and predict `folder`/s.fa; return the regions by contig."""
    config = Config.of(results=folder / "results", bundle=bundle, keep_embeddings=False)
    chunks = RunFolder(config.run.results).chunks("s").path
    write_chunks([folder / "s.fa"], chunks, Chunking(window=WINDOW), sample="s")
    tasks = Tasks.of(config.run, config.embedding).of_samples(["s"])
    Worker(config.part(WorkerSettings), "0", 0, tasks).run()
    out = folder / "tables"
    predict(config.run, config.embedding, config.calling, config.probability, "s", out)
    regions: dict[str, list[tuple[int, int]]] = {}
    for row in pq.read_table(SampleFolder(out, "s").parquet("regions")).to_pylist():
        regions.setdefault(row["contig"], []).append((row["start"], row["end"]))
    return regions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--auroc", type=float, nargs="*", default=[0.97, 0.9])
    parser.add_argument("--insertions", type=int, default=1000)
    parser.add_argument("--bundle", type=Path, help="such as demo/bundle")
    parser.add_argument("--bundle-insertions", type=int, default=300)
    options = parser.parse_args()
    for auroc in options.auroc:
        print(f"ideal, AUROC {auroc}: {ideal(auroc, options.insertions, np.random.default_rng(1))}")
    if options.bundle:
        found = of_bundle(options.bundle, options.bundle_insertions, np.random.default_rng(1))
        print(f"{options.bundle}: {found}")


if __name__ == "__main__":
    main()
