"""Begin a project: a folder with a config, a sample sheet, and a Snakefile that uses VirNuc."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from virnuc_rules.config.document import properties
from virnuc_rules.config.model import SHIPPED_BUNDLE
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import usable
from virnuc_rules.errors import InputError, VirnucError
from virnuc_rules.files.atomic import replacing

CHECKOUT = Path(__file__).parents[2]  # of the repository, where the library is used from one
_SNAKEFILES = ("Snakefile", "snakefile")  # which Snakemake takes before `workflow/Snakefile`
_FORMATS, _COMPRESSED = "fa|fas|fasta|fna|ffn|fsa|fq|fastq", "gz|bz2|xz|zst"
_ENDING = re.compile(rf"(\.({_FORMATS}))?(\.({_COMPRESSED}))?$", re.IGNORECASE)
# How the names of the two files of read pairs differ. `_1` and `_2` of FASTA files may be bins.
_MATES = (r"(.+)([._-]R)([12])((?:_\d+)?\..+)", r"(.+)([._])([12])(\.f(?:ast)?q(?:\.\w+)?)")
_BUNDLE = f"""folder of the model bundle. {SHIPPED_BUNDLE} comes with VirNuc; a DEMO, for trying.
# To have the published models (6.2 GB), type in the folder of this project
#     virnuc-rules models prepare virnucpro-500 --trust-unpinned
# and write here: bundles/virnucpro-500"""
_SNAKEFILE = """# VirNuc as a module: rules of your own can go below.
configfile: "config/config.yaml"


module virnuc:
    snakefile:
        {snakefile!r}
    config:
        config


use rule * from virnuc
"""


def begin(folder: Path, files: Sequence[Path], checkout: Path = CHECKOUT) -> str:
    """Write the files of a project, its samples those in `files`; return the line that runs it.

    checkout: the repository, which has the workflow and the profiles. Raises VirnucError, and
    writes nothing, where one of the files exists, or a sequence file cannot be in a sheet.
    """
    checkout = checkout.absolute()
    snakefile, profile = checkout / "workflow/Snakefile", checkout / "profiles/local"
    if not (snakefile.is_file() and profile.is_dir()):
        raise VirnucError(
            f"{checkout}: no workflow of VirNuc here; clone its repository, and name the folder "
            "with --checkout"
        )
    samples = name_samples(files)
    is_paired = any(len(of_sample) > 1 for of_sample in samples.values())
    texts = {
        folder / "config/config.yaml": _config(checkout, "keep" if is_paired else "error"),
        folder / "samples.tsv": _sheet(samples),
        folder / "workflow/Snakefile": _SNAKEFILE.format(snakefile=str(snakefile)),
    }
    for path in [*texts, *(folder / name for name in _SNAKEFILES)]:
        if os.path.lexists(path):
            raise VirnucError(f"{path} exists: nothing was written; take another folder")
    for path in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with replacing(path) as handle:
            handle.write(text)
    line = f"snakemake --profile {shlex.quote(str(profile))}"
    is_here = folder.resolve() == Path.cwd()
    return line if is_here else f"cd {shlex.quote(str(folder))} && {line}"


def _config(checkout: Path, duplicate_ids: str) -> str:
    """Return the config: the keys that are set first."""
    own = {"samples": "samples.tsv", "duplicate_ids": duplicate_ids}
    lines = [f"# The settings that are set first. All keys: {checkout / 'config/README.md'}", ""]
    for key in ("samples", "results", "bundle", "workers", "threads", "duplicate_ids"):
        known = properties()[key]
        text = _BUNDLE if key == "bundle" else known["description"]
        lines += [f"# {text}", f"{key}: {own.get(key, known['default'])}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _sheet(samples: dict[str, list[Path]]) -> str:
    rows = [(sample, str(path)) for sample, files in samples.items() for path in files]
    example = [] if rows else [("# One line a sample, such as: lake", "/data/lake.fa.gz")]
    return "".join("\t".join(row) + "\n" for row in [*example, ("sample", "path"), *rows])


def name_samples(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the absolute paths of each sample: one file, or the two of read pairs.

    The name is that of the file without its ending, with that of its folder before it where files
    in several folders have this name. Raises InputError for what is no file, is given twice, or
    has a name that a sheet cannot hold.
    """
    given, groups = dict.fromkeys(path.absolute() for path in files), dict[str, list[Path]]()
    names, folders = dict[str, str](), dict[str, set[Path]]()  # by key of a group, by name
    for path, times in Counter(path.absolute() for path in files).items():
        if times > 1:
            raise InputError(f"{path}: given twice; nothing was written")
        if not path.is_file():
            raise InputError(f"{path}: no such file; nothing was written")
        if set("\t\r\n") & set(str(usable(path, "FILES"))) or path.name != path.name.strip():
            raise InputError(f"{str(path)!r}: a sheet cannot hold this name; rename the file")
        key, name = _paired(path, given) or (str(path), _ENDING.sub("", path.name))
        groups.setdefault(key, []).append(path)
        names[key] = _valid(name)
        folders.setdefault(names[key], set()).add(path.parent)
    samples: dict[str, list[Path]] = {}
    reserved = RunFolder(Path()).own_names()
    for key, of_group in groups.items():
        name = names[key]
        if len(folders[name]) > 1:
            name = _valid(f"{of_group[0].parent.name}_{name}")
        free, number = name, 1
        while free in samples or free in reserved:
            number += 1
            free = f"{name}_{number}"
        samples[free] = of_group
    return samples


def _paired(path: Path, given: dict[Path, None]) -> tuple[str, str] | None:
    """Return a key and the name of the pair of this file, if the other file is given too."""
    for pattern in _MATES:
        if match := re.fullmatch(pattern, path.name, re.I):
            name, mark, number, rest = match.groups()
            if path.with_name(f"{name}{mark}{3 - int(number)}{rest}") in given:
                return str(path.with_name(f"{name}{mark}*{rest}")), name
    return None


def _valid(name: str) -> str:
    """Return a name that a sample may have (`config.sheet.SAMPLE`), with room for a number."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:80] or "sample"
