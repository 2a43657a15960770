"""The peer that needs no network: plain models of 4-mers and codons."""

import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers_tasks import SEED, Floats, Outcome, Record, Task, cut_open, to_measures
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from virnuc_rules.chunking.open_frames import open_frames
from virnuc_rules.vocabulary import Label

_CODE = np.full(256, 4, np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)
_DIGITS = np.arange(256)[:, None] // (64, 16, 4, 1) % 4
_OTHER_STRAND = (3 - _DIGITS[:, ::-1]) @ (64, 16, 4, 1)  # code of the reverse complement
_CANONICAL = np.flatnonzero(np.arange(256) <= _OTHER_STRAND)


def features(windows: list[Record], window: int) -> Floats:
    """Return fractions of 4-mers, both strands as one, and of codons of open frames, [N, 200]."""
    buffer = b"".join(record.bases.ljust(window, b"N") for record in windows)
    code = _CODE[np.frombuffer(buffer, np.uint8)].reshape(len(windows), window)
    start = np.arange(len(windows)) * window
    end = start + np.array([len(record.bases) for record in windows])
    frames = open_frames(buffer, start, end)
    words = _counts(code, 256, 1)
    words = (words + words[:, _OTHER_STRAND])[:, _CANONICAL]
    codons = np.zeros((len(windows), 64))
    rows = zip(frames.window.tolist(), frames.nucleotide, frames.protein, strict=True)
    for row, nucleotide, protein in rows:
        bases = _CODE[np.frombuffer(nucleotide[: 3 * len(protein)], np.uint8)]
        codons[row] += _counts(bases[None], 64, 3)[0]
    return np.hstack([part / part.sum(axis=1, keepdims=True).clip(1) for part in (words, codons)])


def _counts(code: NDArray[np.uint8], words: int, step: int) -> Floats:
    """Count the words of log4(words) bases that begin at every `step`-th base, [N, words]."""
    length = words.bit_length() // 2
    width = code.shape[1] - length + 1
    digits = [code[:, at : at + width : step].astype(np.int64) for at in range(length)]
    unambiguous = np.all([digit < 4 for digit in digits], axis=0)
    word = sum(digit * 4**power for power, digit in enumerate(reversed(digits)))
    row = np.arange(len(code))[:, None] * words
    counts = np.bincount((row + word)[unambiguous], minlength=len(code) * words)
    return counts.reshape(len(code), words).astype(float)


def fit_composition(windows: list[Record], window: int) -> dict[str, Any]:
    """Fit two plain models to windows of the train part."""
    label = np.array([record.label for record in windows])
    x = features(windows, window)
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "boosted trees": HistGradientBoostingClassifier(
            max_iter=200, early_stopping=False, random_state=SEED
        ),
    }
    counts = Counter(list(Label)[value] for value in label.tolist())
    of = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for name, model in models.items():
        begin = time.perf_counter()
        model.fit(x, label)
        print(f"  {name}: fitted to {of} in {time.perf_counter() - begin:.1f} s", flush=True)
    return models


def composition(task: Task, name: str, model: Any) -> Outcome:
    """Score a task's windows; a contig's score is the mean of its windows', its call their vote."""
    begin = time.perf_counter()
    cuts = [cut_open(record, task.window) for record in task.records]
    contig = np.repeat(np.arange(len(cuts)), [len(windows) for windows in cuts])
    windows = [window for windows in cuts for window in windows]
    probability = model.predict_proba(features(windows, task.window))[:, Label.VIRUS.code]
    total = np.bincount(contig, minlength=len(cuts))
    score = np.bincount(contig, probability, len(cuts)) / total
    votes = np.bincount(contig, probability >= 0.5, len(cuts)) / total
    seconds = time.perf_counter() - begin
    print(f"  {name}, {task.name}: {seconds:.1f} s", flush=True)
    return Outcome(f"composition, {name}", seconds, None, to_measures(task, score, votes >= 0.5))
