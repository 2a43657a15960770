"""Scores of open frames from their embeddings."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.errors import ModelError
from virnuc_rules.models.classifier import MLPClassifier


def frame_scores(
    classifier: MLPClassifier, embeddings: Embeddings, bundle: Path
) -> NDArray[np.float32]:
    """Score R open frames; float32 [R, 2]: score1 (non-viral) and score2 (virus), with sum 1.

    Raises ModelError, which names `bundle`, if scores are not finite: the embeddings are, so the
    weights are the reason.
    """
    scores = classifier.scores(embeddings.dnabert_s, embeddings.esm2).numpy()
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{bundle}: the classifier's scores of {embeddings.ids[bad[0]]} are not finite; its "
            "weights are unusable, make the bundle again"
        )
    return scores
