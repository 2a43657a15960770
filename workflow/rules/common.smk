# The checked config, the samples, and what several rules share.
from pathlib import Path

from snakemake.exceptions import WorkflowError

from virnuc_rules import __version__
from virnuc_rules.chunkfiles import read_manifest
from virnuc_rules.config import check_config, check_inputs, read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import read_card
from virnuc_rules.tables import FILES as TABLES

try:
    CONFIG = check_config(config)
    SAMPLES = read_samples(CONFIG.samples)
    check_inputs(CONFIG, SAMPLES)
    CARD = read_card(CONFIG.bundle)
except VirnucError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG.results


wildcard_constraints:
    sample=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    chunk=r"chunk_\d+",
    worker=r"\d+",


def embedded(wildcards):
    """The stamps that say that a sample's chunks are embedded."""
    stamps = f"{RESULTS}/queue/stamps"
    if CONFIG.persistent_models:
        return expand(f"{stamps}/worker_{{worker}}.txt", worker=range(CONFIG.workers))
    # One for each chunk: known once the samples are chunked.
    checkpoints.chunk_all.get()
    chunks = read_manifest(RESULTS / "chunks" / wildcards.sample).chunks
    names = [Path(entry.file).stem for entry in chunks]
    return expand(f"{stamps}/{wildcards.sample}/{{chunk}}.txt", chunk=names)
