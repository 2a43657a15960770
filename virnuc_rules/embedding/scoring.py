"""Scores of open frames from their embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from virnuc_rules.embedding.embedding_file import Embeddings, Scores
from virnuc_rules.errors import ModelError
from virnuc_rules.models.classifier import MLPClassifier


def score(classifier: MLPClassifier, embeddings: Embeddings, bundle: Path) -> Scores:
    """Score R open frames of a chunk: score1 (non-viral) and score2 (virus), with sum 1.

    All of a chunk at once, in one thread: so on one type of CPU the same embeddings always give the
    same bytes, in a worker and in `predict`. Raises ModelError, which names `bundle`, if scores are
    not finite: the embeddings are, so the weights are the reason.
    """
    with _one_thread():
        scores: Tensor = classifier.scores(embeddings.dnabert_s, embeddings.esm2)
    bad = (~torch.isfinite(scores).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ModelError(
            f"{bundle}: the classifier's scores of {embeddings.ids[bad[0]]} are not finite; its "
            "weights are unusable, make the bundle again"
        )
    return Scores(
        embeddings.ids, scores, embeddings.computed,
        embeddings.tokens, embeddings.padding, embeddings.notes,
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread within the block. It is a setting of the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
