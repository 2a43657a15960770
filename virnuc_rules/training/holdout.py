"""Which labelled files a classifier, or a calibration, was fitted to, and which are held out."""

import hashlib

import numpy as np

from virnuc_rules.models.card import Seen
from virnuc_rules.training.labelled import Labelled
from virnuc_rules.training.split import PARTS


def files_of(labelled: Labelled) -> list[Seen]:
    """Describe the files of labelled samples: their content, and how they are split."""
    files = []
    for sample in labelled.samples:
        manifest = sample.manifest
        hashed = zip(sample.paths, manifest.sources_sha256, strict=True)
        for source, (file, sha256) in enumerate(hashed):
            parts = np.ascontiguousarray(sample.part[sample.source == source])
            split = hashlib.sha256(parts.tobytes()).hexdigest()
            files.append(Seen(sample=sample.name, file=file, sha256=sha256, split=split))
    return files


def parts_of(part: str) -> set[str]:
    """Return the parts that a part's name, or `all`, stands for."""
    return set(PARTS) if part == "all" else {part}


def not_held_out(data: list[Seen], used: set[str], labelled: Labelled, part: str) -> list[str]:
    """Return the files of `labelled` whose `part` is not held out from a fit.

    data: the files that it was fitted to; used: the parts of them. A part is held out if it was not
    used and the file is still split in the same way. Files are compared by their bytes: the same
    sequences, compressed in another way or with other names, are not recognized.
    """
    overlap = parts_of(part) & used
    splits = {(file.sha256, file.split) for file in data}
    hashes = {file.sha256 for file in data}
    return [
        now.file
        for now in files_of(labelled)
        if now.sha256 in hashes and (overlap or (now.sha256, now.split) not in splits)
    ]
