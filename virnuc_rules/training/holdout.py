"""Which labelled files a classifier, or a calibration, has seen: what is held out, and what not."""

import hashlib

import numpy as np

from virnuc_rules.models.card import Seen
from virnuc_rules.training.labelled import Labelled
from virnuc_rules.training.split import PARTS


def files_of(labelled: Labelled) -> list[Seen]:
    """Describe the files of labelled samples: their content, and how they are split."""
    found = []
    for sample in labelled.samples:
        manifest = sample.manifest
        named = zip(manifest.sources, manifest.sources_sha256, strict=True)
        for number, (file, sha256) in enumerate(named):
            parts = np.ascontiguousarray(sample.part[sample.source == number])
            split = hashlib.sha256(parts.tobytes()).hexdigest()
            found.append(Seen(sample=sample.name, file=file, sha256=sha256, split=split))
    return found


def parts_of(part: str) -> set[str]:
    """Return the parts that are meant by the name of one, or by `all`."""
    return set(PARTS) if part == "all" else {part}


def not_held_out(data: list[Seen], used: set[str], labelled: Labelled, part: str) -> list[str]:
    """Return the files that were seen, in `data`, and are not held out from it now.

    `used` are the parts that were seen. A part is held out if it is none of them and the file is
    split as it was then. Files are known by their bytes: the same sequences, packed otherwise or
    under other names, are not found.
    """
    wanted = parts_of(part)
    splits = {(each.sha256, each.split) for each in data}
    known = {each.sha256 for each in data}
    return [
        now.file
        for now in files_of(labelled)
        if now.sha256 in known and (wanted & used or (now.sha256, now.split) not in splits)
    ]
