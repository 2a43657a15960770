"""The labelled samples of a run: label, group and part of each contig."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.chunking import format as chunk_format
from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.errors import InputError, VirnucError
from virnuc_rules.files.made import Seen, read_made
from virnuc_rules.training.annotation import CodingSequences, read_genbank
from virnuc_rules.training.sheet import LabelledFile, read_labelled_sheet
from virnuc_rules.training.split import PARTS, Part, part_of
from virnuc_rules.training.words import NO_WORDS, clusters, read_words, sampled_fraction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """The C contigs and W windows of a sample, of one label."""

    name: str
    label: int  # code of a Label
    folder: ChunkFolder
    manifest: Manifest
    ids: list[str]  # [C]
    length: Int  # [C] bases
    source: Int  # [C] file of the sample
    group: Int  # [C] index into the groups of `Labelled`
    part: NDArray[np.int8]  # [C] index into PARTS
    window_contig: Int  # [W] contig of each window
    files: list[LabelledFile]  # by source
    paths: list[str]  # of these files, as in the sheet
    homolog: Bool | None = None  # [C] see `training.homology`; None: not known

    @property
    def known_homolog(self) -> Bool:
        """Tell which contigs [C] are known to have homologs in the training data."""
        return np.zeros(len(self.part), bool) if self.homolog is None else self.homolog


@dataclass(frozen=True, slots=True)
class Labelled:
    """All samples of a sheet."""

    samples: list[LabelledSample]
    groups: list[str]


def read_labelled(settings: LabelledSettings) -> Labelled:
    """Read the labelled sheet and the chunk folders of its samples.

    With `link_homologs` also the chunks themselves; it raises what reading one raises. And
    VirnucError for a wrong sheet or table, a record without a group, a group in two parts,
    and a file with both labels; ChunkError for a sample that is not chunked.
    """
    sheet = settings.inputs.samples
    names: dict[str, int] = {}  # index of each group, by its name
    samples = [
        _read_sample(settings, name, files, names)
        for name, files in read_labelled_sheet(sheet).items()
    ]
    _check_labels(samples, sheet)
    groups, cluster = list(names), np.arange(len(names))
    if settings.splitting.link_homologs:
        cluster = _linked(settings, samples, groups)
    _split(samples, groups, cluster, settings.splitting.seed, sheet)
    return Labelled(samples, groups)


def _linked(settings: LabelledSettings, samples: list[LabelledSample], groups: list[str]) -> Int:
    """Return the cluster of homologs of each group [G]: the index of the first by name in it."""
    order = np.array(sorted(range(len(groups)), key=groups.__getitem__), np.int64)
    rank = np.argsort(order)
    fraction = sampled_fraction([sample.manifest for sample in samples])
    words, ranks = [NO_WORDS], [np.zeros(0, np.int64)]  # of the group of each word
    for sample in samples:
        for word, window in read_words(settings, sample.name, fraction):
            words.append(word)
            ranks.append(rank[sample.group[sample.window_contig[window]]])
    found = clusters(np.concatenate(words), np.concatenate(ranks), len(groups))
    cluster: Int = order[found][rank]
    largest = int(np.bincount(cluster).max(initial=0))
    logger.info(
        "%d groups are %d clusters of homologs; the largest has %d groups",
        len(groups), len(np.unique(cluster)), largest,
    )  # fmt: skip
    return cluster


def _check_labels(samples: list[LabelledSample], sheet: Path) -> None:
    """Raise VirnucError where the same file has both labels; all empty files are the same."""
    labels: dict[str, int] = {}
    for sample in samples:
        hashes = sample.manifest.sources_sha256
        for source in np.unique(sample.source).tolist():
            if labels.setdefault(hashes[source], sample.label) != sample.label:
                file = sample.paths[source]
                raise VirnucError(f"{sheet}: {file} has both labels; give it one")


def _read_sample(
    settings: LabelledSettings, name: str, sheet: dict[str, LabelledFile], names: dict[str, int]
) -> LabelledSample:
    folder = RunFolder(settings.run.results).chunks(name)
    manifest = read_manifest(folder)
    made, paths, files = read_made(folder.made), list(sheet), list(sheet.values())
    same = len(paths) == len(manifest.sources_sha256)
    if made and same:
        same = all(map(Seen.has_same_content, made.inputs, map(Path, paths)))
    if not same:
        raise VirnucError(
            f"{settings.inputs.samples}: sample {name}: its files are not those that were chunked; "
            "run `chunk` again"
        )
    length = chunk_format.contig_lengths(folder, manifest)
    window_contig = chunk_format.contig_indices(folder, manifest, length)
    tables = chunk_format.read_table(folder.contigs)
    ids = [contig for table in tables for contig in table["contig"].to_pylist()]
    (source,) = chunk_format.read_columns(folder.contigs, "source")
    group = np.empty(len(ids), np.int64)
    for index, (contig, file) in enumerate(zip(ids, source.tolist(), strict=True)):
        try:
            group_name = files[file].group_of(contig)
        except KeyError:
            raise VirnucError(
                f"{settings.inputs.samples}: sample {name}: {paths[file]}: record "
                f'"{contig}" has no group; add it to the table of groups'
            ) from None
        group[index] = names.setdefault(group_name, len(names))
    part = np.full(len(ids), -1, np.int8)
    return LabelledSample(
        name, files[0].label, folder, manifest, ids, length, source, group, part,
        window_contig, files, paths,
    )  # fmt: skip


def _split(
    samples: list[LabelledSample], groups: list[str], cluster: Int, seed: int, sheet: Path
) -> None:
    """Set the part of each contig: that of the sheet for its group, or for one of its cluster.

    Where the sheet says nothing, it is decided by the hash of the name of the cluster [G].
    """
    given: dict[int, Part] = {}
    for sample in samples:
        for source, file in enumerate(sample.files):
            if file.part is None:
                continue
            for group in np.unique(sample.group[sample.source == source]).tolist():
                if given.setdefault(group, file.part) != file.part:
                    raise VirnucError(
                        f"{sheet}: group {groups[group]} is in two parts, {given[group]} and "
                        f"{file.part}; keep a group together"
                    )
    of_cluster = {int(cluster[group]): part for group, part in reversed(given.items())}
    apart = [group for group, part in given.items() if of_cluster[int(cluster[group])] != part]
    if apart:
        logger.warning(
            "%s: %d groups are in another part than their homologs, as the column `part` says; "
            "the first is %s", sheet, len(apart), groups[apart[0]],
        )  # fmt: skip
    parts = (
        given.get(group) or of_cluster.get(first) or part_of(groups[first], seed)
        for group, first in enumerate(cluster.tolist())
    )
    codes = np.array([PARTS.index(part) for part in parts], np.int8)
    for sample in samples:
        sample.part[:] = codes[sample.group]


def annotated(sample: LabelledSample) -> Iterator[tuple[int, CodingSequences]]:
    """Yield each contig whose file has an annotation, with its coding sequences.

    Raises InputError for an annotation that cannot be read, or that lacks a record of the file.
    """
    records = {file.genbank: read_genbank(file.genbank) for file in sample.files if file.genbank}
    for source, file in enumerate(sample.files):
        if file.genbank:
            for contig in np.flatnonzero(sample.source == source).tolist():
                coding = records[file.genbank].get(sample.ids[contig])
                if coding is None:
                    raise InputError(
                        f'{file.genbank}: no record "{sample.ids[contig]}", which '
                        f"{sample.paths[source]} has; add it, or leave `genbank` empty"
                    )
                yield contig, coding
