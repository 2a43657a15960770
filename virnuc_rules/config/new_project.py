"""A new folder for a run: config file, sample sheet, a Snakefile, profiles."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import virnuc_rules
from virnuc_rules.config.model import SHIPPED_BUNDLE
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing, writing

_CHECKOUT = Path(virnuc_rules.__file__).parents[1]
_SUFFIXES = re.compile(r"(\.(fa|fas|fasta|fna|ffn|fq|fastq|gz|bz2|xz|zst))+$", re.IGNORECASE)
_MATE = re.compile(r"(.+?)[._-]R?[12](_001)?")  # of paired reads: x_R1.fq and x_R2.fq, x_1 and x_2

_CONFIG = """\
# Settings of VirNuc. All keys, with their defaults: {readme}

samples: config/samples.tsv
results: results

# The DEMO bundle: small networks, no substitute for the published models. Where there is a network,
# `virnuc-rules models prepare virnucpro-500 --trust-unpinned` makes a bundle of those; then write
# `bundle: bundles/virnucpro-500` here.
bundle: {bundle}

# Model servers, one for each GPU; on a machine without GPUs one is enough.
workers: 1

# Of contigs: conservative (few false ones), default, or sensitive (few are missed).
calls: default

# keep: for reads, where the two of a pair have the same id; error: for contigs.
duplicate_ids: {duplicates}
"""
_SNAKEFILE = """\
# VirNuc as a module: rules of your own may follow.
configfile: "config/config.yaml"


module virnuc:
    snakefile:
        {snakefile}
    config:
        config


use rule * from virnuc
"""


def new_project(folder: Path, files: Sequence[Path]) -> None:
    """Write a folder for a run of these sequence files, each a sample; two mates are one sample.

    Paths of the files are made absolute. Raises VirnucError where a file is missing, where the
    folder has one of the new files already, or where the library is installed without a workflow.
    """
    snakefile = _CHECKOUT / "workflow" / "Snakefile"
    if not snakefile.is_file():
        raise VirnucError(
            f"{_CHECKOUT}: the library is installed without its workflow; clone the repository and "
            "install it with `pip install -e .`"
        )
    for path in files:
        if not path.is_file():
            raise VirnucError(f"{path}: no such file; check the path")
    rows = [f"{sample}\t{path.absolute()}\n" for path, sample in sample_names(files).items()]
    reads = any(re.search(r"\.(fq|fastq)\b", path.name, re.IGNORECASE) for path in files)
    texts = {
        "config/config.yaml": _CONFIG.format(
            readme=_CHECKOUT / "config" / "README.md",
            bundle=json.dumps(str(_CHECKOUT / SHIPPED_BUNDLE)),
            duplicates="keep" if reads else "error",
        ),
        "config/samples.tsv": "".join(["sample\tpath\n", *rows]),
        "workflow/Snakefile": _SNAKEFILE.format(snakefile=json.dumps(str(snakefile))),
    }
    profiles = folder / "profiles"
    for path in (*(folder / name for name in texts), profiles):
        if path.exists():
            raise VirnucError(f"{path} exists already; give another folder, nothing was written")
    with writing(folder):
        shutil.copytree(_CHECKOUT / "profiles", profiles)
        for name, text in texts.items():
            with replacing(folder / name) as handle:
                handle.write(text)


def sample_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return the name of a sample for each file, from the name of the file.

    Two mates of paired reads have the same; otherwise equal names get a number.
    """
    stems = {path: _SUFFIXES.sub("", path.name) for path in files}
    mates: dict[tuple[Path, str], list[Path]] = {}
    for path, stem in stems.items():
        if match := _MATE.fullmatch(stem):
            mates.setdefault((path.parent, match[1]), []).append(path)
    pairs = {path: key for key, both in mates.items() if len(both) == 2 for path in both}
    names: dict[Path, str] = {}
    taken: dict[str, object] = {}  # by name: the file or the pair that has it
    for path, stem in stems.items():
        owner = pairs.get(path, path)
        base = re.sub(r"[^A-Za-z0-9._-]", "_", pairs[path][1] if path in pairs else stem)
        base = re.sub(r"^[^A-Za-z0-9]+", "", base)[:90] or "sample"
        name, number = base, 1
        while taken.setdefault(name, owner) != owner:
            number += 1
            name = f"{base}_{number}"
        names[path] = name
    return names
