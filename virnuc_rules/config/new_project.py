"""A new folder for a run: config file, sample sheet, a Snakefile, profiles."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import virnuc_rules
from virnuc_rules.config.model import SHIPPED_BUNDLE
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import usable
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing, writing

_CHECKOUT = Path(virnuc_rules.__file__).parents[1]
_SUFFIXES = re.compile(r"(\.(fa|fas|fasta|fna|ffn|fq|fastq|gz|bz2|xz|zst))+$", re.IGNORECASE)
# Names of paired reads: x_R1 and x_R2; of FASTQ also x_1 and x_2, which of FASTA may be two bins.
_MATES = (r"(.+)([._-]R)([12])((?:_\d+)?\..+)", r"(.+)([._])([12])(\.f(?:ast)?q(?:\.\w+)?)")

_CONFIG = """\
# yaml-language-server: $schema={folder}/schema.json
# Settings of VirNuc. All keys, with their defaults: {folder}/README.md

samples: config/samples.tsv
results: results

# The DEMO bundle: small networks, no substitute for the published models. Where there is a network,
# `virnuc-rules models prepare virnucpro-500 --trust-unpinned` makes a bundle of those in the folder
# `bundles/virnucpro-500` where you run it; then write its path here.
bundle: {bundle}

# Model servers, one for each GPU; on a machine without GPUs one is enough.
workers: 1

# Of contigs: conservative (few false ones), default, or sensitive (few are missed).
calls: default

# keep: for reads, where the two of a pair have the same id; error: for contigs.
duplicate_ids: {duplicates}
"""
_EXAMPLE = "# One line for each sample, such as: lake\t/data/lake.fa.gz\n"
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


class _Pair(NamedTuple):
    """What the paths of two files of paired reads have in common."""

    folder: Path
    name: str
    mark: str
    rest: str


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
        name = str(path.absolute())
        if set("\t\r\n") & set(name) or name != name.rstrip():
            raise VirnucError(f"{name!r}: a sheet cannot hold this name; rename the file")
        usable(path.absolute(), "a new sheet")
    names = sample_names(files)
    rows = [f"{sample}\t{path.absolute()}\n" for path, sample in names.items()]
    fastq = any(re.search(r"\.(fq|fastq)\b", path.name, re.IGNORECASE) for path in files)
    reads = fastq or len(set(names.values())) < len(names)
    texts = {
        "config/config.yaml": _CONFIG.format(
            folder=_CHECKOUT / "config",
            bundle=json.dumps(str(_CHECKOUT / SHIPPED_BUNDLE)),
            duplicates="keep" if reads else "error",
        ),
        "config/samples.tsv": "".join([*([] if rows else [_EXAMPLE]), "sample\tpath\n", *rows]),
        "workflow/Snakefile": _SNAKEFILE.format(snakefile=json.dumps(str(snakefile))),
    }
    profiles = folder / "profiles"
    # Snakemake would take a Snakefile in the folder itself, and not the new one.
    for path in (*(folder / name for name in (*texts, "Snakefile", "snakefile")), profiles):
        if path.exists():
            raise VirnucError(f"{path} exists already; give another folder, nothing was written")
    with writing(folder):
        shutil.copytree(_CHECKOUT / "profiles", profiles)
        for name, text in texts.items():
            with replacing(folder / name) as handle:
                handle.write(text)


def sample_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return the name of a sample for each file, from the name of the file.

    Two mates of paired reads have the same; otherwise equal names get a number, and so do the names
    that VirNuc uses in the results.
    """
    names, given = dict[Path, str](), set(files)
    taken: dict[str, object] = dict.fromkeys(RunFolder(Path()).own_names())  # by file or pair
    for path in files:
        pair = _pair(path, given)
        owner, stem = (pair, pair.name) if pair else (path, _SUFFIXES.sub("", path.name))
        base = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
        base = re.sub(r"^[^A-Za-z0-9]+", "", base)[:90] or "sample"
        name, number = base, 1
        while taken.setdefault(name, owner) != owner:
            number += 1
            name = f"{base}_{number}"
        names[path] = name
    return names


def _pair(path: Path, given: set[Path]) -> _Pair | None:
    """Return the pair of reads that a file is of; None where the other file is not given."""
    for pattern in _MATES:
        if match := re.fullmatch(pattern, path.name, re.IGNORECASE):
            name, mark, number, rest = match.groups()
            if path.with_name(f"{name}{mark}{3 - int(number)}{rest}") in given:
                return _Pair(path.parent, name, mark, rest)
    return None
