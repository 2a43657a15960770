# The checked config, the samples, and what several rules share.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from virnuc_rules import __version__
from virnuc_rules.chunking.format import read_manifest
from virnuc_rules.config.model import check_config, check_inputs, read_samples
from virnuc_rules.config.labels import read_controls
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import read_card
from virnuc_rules.bundles.definition import find_definition
from virnuc_rules.prediction.tables import FILES as TABLES
from virnuc_rules.embedding.tasks import stamp_folder
from virnuc_rules.training.sheet import read_sheet, tables_beside

try:
    CONFIG = check_config(config)
    SAMPLES = read_samples(CONFIG.samples)
    check_inputs(CONFIG, SAMPLES)
    read_controls(CONFIG.samples)
    # `models.smk` is left out where there is a bundle: to make it again, Snakemake would delete it.
    BUNDLE_IS_THERE = (CONFIG.bundle / "bundle.json").exists()
    if CONFIG.bundle_definition and not BUNDLE_IS_THERE:
        find_definition(CONFIG.bundle_definition)
    else:
        read_card(CONFIG.bundle)
except VirnucError as error:
    raise WorkflowError(str(error)) from None

RESULTS, STAMPS = CONFIG.results, stamp_folder(CONFIG)


wildcard_constraints:
    sample=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    chunk=r"chunk_\d+",
    worker=r"\d+",


def from_card(field):
    """A param that changes with the bundle.

    A function of no input: Snakemake compares only such with those of the last run. It asks again
    just before a job starts, when a bundle that is made in this run is there.
    """

    def value(wildcards):
        if not (CONFIG.bundle / "bundle.json").exists():
            return "<TBD>"
        return getattr(read_card(CONFIG.bundle), field)

    return value


def stamps(samples):
    """The stamps that say that the chunks of samples are embedded."""
    if CONFIG.persistent_models:
        return expand(f"{STAMPS}/worker_{{worker}}.txt", worker=range(CONFIG.workers))
    # One for each chunk: known once the samples are chunked.
    checkpoints.chunk_all.get()
    return [
        f"{STAMPS}/{sample}/{Path(entry.file).stem}.txt"
        for sample in samples
        for entry in read_manifest(RESULTS / "chunks" / sample).chunks
    ]


def embedded(wildcards):
    """The stamps of a sample."""
    return stamps([wildcards.sample])


def all_embedded(wildcards):
    """The stamps of all samples."""
    return stamps(SAMPLES)


def sheet_and_tables(wildcards):
    """The labelled sheet and what it names: what is wrong with it is said before anything runs."""
    try:
        return [CONFIG.samples, *tables_beside(read_sheet(CONFIG.samples))]
    except VirnucError as error:
        raise WorkflowError(str(error)) from None
