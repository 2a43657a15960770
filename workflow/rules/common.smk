# The checked config, the samples, and functions that several rules use.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from virnuc_rules import __version__
from virnuc_rules.bundles.definition import with_window
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.cli.main import command_options
from virnuc_rules.config.labels import read_controls
from virnuc_rules.config.load import write_run_config
from virnuc_rules.config.model import check_config
from virnuc_rules.config.run_folder import (
    EVALUATION,
    FIGURES,
    RunFolder,
    evaluation_json,
)
from virnuc_rules.config.sheet import SAMPLE, check_inputs, read_sheet
from virnuc_rules.embedding.tasks import stamp_folder
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import CARD, is_bundle, read_card
from virnuc_rules.training.sheet import read_labelled_sheet, tables_beside

if workflow.modifier.path_modifier.prefix:
    raise WorkflowError(
        "VirNuc as a module takes no `prefix:`; set `results:` in its config instead"
    )
try:
    CONFIG = with_window(check_config(config))
    SHEET = read_sheet(CONFIG.inputs.samples)
    SAMPLES = SHEET.samples
    if workflow.is_main_process:  # jobs also read this file, and need no second check
        check_inputs(CONFIG, SAMPLES)
        read_controls(SHEET)
except VirnucError as error:
    raise WorkflowError(str(error)) from None

FOLDER, STAMPS = RunFolder(CONFIG.run.results), stamp_folder(CONFIG)
BUNDLE = CONFIG.run.bundle / CARD
MANIFEST, TABLES = FOLDER.chunks("{sample}").manifest, FOLDER.sample("{sample}")
# `models.smk` is left out where a bundle exists: Snakemake would delete it to make it again.
BUNDLE_IS_THERE = is_bundle(CONFIG.run.bundle)


onstart:
    write_run_config(CONFIG)


if workflow.is_main_process and not workflow.modifier.is_main_snakefile():
    write_run_config(CONFIG)  # Snakemake does not call `onstart` of a module


wildcard_constraints:
    sample=SAMPLE,
    chunk=r"chunk_\d+",
    worker=r"\d+",


def options(command):
    """The settings of a command as its options."""
    return command_options(CONFIG, command)


def from_card(field):
    """A param that changes with the bundle.

    A function without `input`: Snakemake compares only such params with those of the last run. It
    calls the function again just before a job starts, when a bundle made in this run exists.
    """

    def value(wildcards):
        if not is_bundle(CONFIG.run.bundle):
            return "<TBD>"
        return getattr(read_card(CONFIG.run.bundle), field)

    return value


def stamps(samples):
    """The stamps of the jobs that embed the chunks of samples."""
    if CONFIG.workflow.persistent_models:
        workers = range(CONFIG.workflow.workers)
        return expand(STAMPS / "worker_{worker}.txt", worker=workers)
    # One for each chunk: known once the samples are chunked.
    checkpoints.chunk_all.get()
    return [
        STAMPS / sample / f"{Path(entry.file).stem}.txt"
        for sample in samples
        for entry in read_manifest(FOLDER.chunks(sample)).chunks
    ]


def embedded(wildcards):
    """The stamps of a sample."""
    return stamps([wildcards.sample])


def all_embedded(wildcards):
    """The stamps of all samples."""
    return stamps(SAMPLES)


def sheet_and_tables(wildcards):
    """The labelled sheet and the tables that it names; errors in it stop the run at the start."""
    sheet = CONFIG.inputs.samples
    try:
        return [sheet, *tables_beside(read_labelled_sheet(sheet))]
    except VirnucError as error:
        raise WorkflowError(str(error)) from None
