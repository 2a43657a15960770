# The checked config, the plan, and functions that several rules use.
import atexit
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from virnuc_rules.bundles.definition import with_window
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.cli.main import command_options
from virnuc_rules.config.annotations import annotation_paths
from virnuc_rules.config.labels import label_tables, read_controls
from virnuc_rules.config.load import write_run_config
from virnuc_rules.config.model import LabelledSettings, check_config
from virnuc_rules.config.run_folder import (
    EVALUATION,
    EVERY,
    TRAIN,
    FIGURES,
    EvaluationFiles,
    worker_names,
)
from virnuc_rules.config.sheet import SAMPLE, read_sheet
from virnuc_rules.errors import EnvironmentProblem, UnusableSample, VirnucError
from virnuc_rules.logs import say
from virnuc_rules.models.card import CARD, is_bundle
from virnuc_rules.planning.forecast import forecast
from virnuc_rules.planning.lease import Lease
from virnuc_rules.planning.plan import Plan, settle
from virnuc_rules.queue.store import Store
from virnuc_rules.training.products import evaluation_product, trained_product
from virnuc_rules.training.sheet import read_labelled_sheet, tables_beside

if workflow.modifier.path_modifier.prefix:
    raise WorkflowError(
        "VirNuc as a module takes no `prefix:`; set `results:` in its config instead"
    )
if workflow.storage_settings and workflow.storage_settings.default_storage_provider:
    raise WorkflowError(
        "VirNuc needs `results` on a filesystem with hard links: run it without"
        " --default-storage-provider, and copy the results afterwards"
    )
try:
    CONFIG = with_window(check_config(config))
    SHEET = read_sheet(CONFIG.inputs.samples)
    SAMPLES, ANNOTATIONS = SHEET.samples, annotation_paths(SHEET)
    PLAN, LEASE = Plan(CONFIG, SHEET), Lease(CONFIG)
    if workflow.is_main_process:  # jobs also read this file, and find what was settled
        read_controls(SHEET)
        # A dry run and `--lint`, which are not known yet, make no folder.
        if CONFIG.run.results.is_dir():
            LEASE.take()
        PLAN.settle()
        PLAN.check_inputs()
except VirnucError as error:
    raise WorkflowError(str(error)) from None
except OSError as error:  # such as results that cannot be written
    raise WorkflowError(f"{error.filename}: {error.strerror}") from None

FOLDER = PLAN.folder
BUNDLE = CONFIG.run.bundle / CARD
CHUNKED, PREDICTED = FOLDER.chunks("{sample}").done, FOLDER.sample("{sample}").done
# `models.smk` is left out where a bundle exists: Snakemake would delete it to make it again. What
# depends on the bundle knows by its hashes, not by its time.
BUNDLE_IS_THERE = is_bundle(CONFIG.run.bundle)
BUNDLE_IF_MADE = [] if BUNDLE_IS_THERE else BUNDLE


def print_plan():
    """Say what the run will embed, before a day of GPU time is spent on it."""
    for line in forecast(PLAN).lines():
        say(f"plan: {line}", sys.stderr)


@atexit.register
def last_lines():
    """The last lines of a dry run, which calls no `onstart`."""
    if workflow.is_main_process and workflow.dryrun:
        print_plan()


def begin_run():
    """What failed in an earlier run is tried again; other commands find the settings of this one."""
    LEASE.take()
    Store(CONFIG.run.results).begin()
    write_run_config(CONFIG)


onstart:
    print_plan()
    begin_run()


if workflow.is_main_process and not workflow.modifier.is_main_snakefile():
    # Snakemake does not call `onstart` of a module.
    if not workflow.dryrun:
        print_plan()
    begin_run()


wildcard_constraints:
    # report/done is no sample's
    sample=f"(?!({'|'.join(map(re.escape, sorted(FOLDER.own_names())))})/){SAMPLE}",
    chunk=r"chunk_\d+",
    worker=rf"({EVERY}|{TRAIN})?\d+",


def options(command):
    """The settings of a command as its options."""
    return command_options(CONFIG, command)


def stamps(samples, prefix=""):
    """The stamps of the jobs that embed the chunks of samples; jobs do not look at them."""
    if not workflow.is_main_process:
        return []
    check_groups()
    if CONFIG.workflow.persistent_models:
        workers = worker_names(CONFIG.workflow.workers, prefix)
        return [FOLDER.worker_stamp(worker) for worker in workers]
    # One for each chunk: known once the samples are chunked.
    checkpoints.chunk_all.get()
    return [stamp for sample in samples for stamp in chunk_stamps(sample)]


def check_groups():
    """Jobs of a group are started by a Snakemake that is no main process, and sees no stamps."""
    given = workflow.group_settings.overwrite_groups
    groups = [
        given[rule] for rule in given if rule.endswith(("chunk", "serve", "predict"))
    ]
    if len(set(groups)) < len(groups):
        raise WorkflowError(
            "--groups: `chunk`, `serve`, `embed_chunk` and `predict` cannot share a group; give each"
            " of them a group of its own"
        )


def chunk_stamps(sample):
    """The stamps of the chunks of a sample; none if its files cannot be used."""
    try:
        chunks = read_manifest(FOLDER.chunks(sample)).chunks
    except UnusableSample:
        return []
    return [FOLDER.chunk_stamp(sample, Path(entry.file).stem) for entry in chunks]


def if_stale(is_current):
    """An input of what is stale, newer than it.

    Of a file that is asked for by its name Snakemake sees only that it is there, not that `done` is
    missing: such an input makes the job run.
    """
    is_needed = workflow.is_main_process and not is_current and FOLDER.now.exists()
    return FOLDER.now if is_needed else []


def embedded(wildcards):
    """The stamps of a sample; none where its tables are up to date, also without embeddings."""
    if PLAN.samples[wildcards.sample].is_final:
        return []
    return stamps([wildcards.sample])


def all_scored(wildcards):
    """The stamps of all samples, for `evaluate`."""
    return stamps(SAMPLES, EVERY)


def all_embedded(wildcards):
    """The stamps of all samples, for `train`."""
    return stamps(SAMPLES, TRAIN)


def is_settled(done, make, *arguments):
    """Whether a product of labelled samples is up to date."""
    if not workflow.is_main_process or not PLAN.is_labelled:
        return False
    product = None
    if PLAN.are_chunked():
        # An error in the sheet: `sheet_and_tables` says so where the product is asked for.
        try:
            product = make(CONFIG.part(LabelledSettings), *arguments)
        except EnvironmentProblem as error:
            raise WorkflowError(str(error)) from None
        except VirnucError:
            pass
    return settle(product, done) is not None


def sheet_and_tables(wildcards):
    """The labelled sheet and the tables that it names; errors in it stop the run at the start."""
    sheet = CONFIG.inputs.samples
    try:
        return PLAN.edges(None, [sheet, *tables_beside(read_labelled_sheet(sheet))])
    except VirnucError as error:
        raise WorkflowError(str(error)) from None


def sheet_of_training(wildcards):
    """The same for `train`, which needs embeddings."""
    try:
        CONFIG.run.check_embeddings("train")
    except VirnucError as error:
        raise WorkflowError(str(error)) from None
    return sheet_and_tables(wildcards)
