"""VirNucPro's classifier: a perceptron with one hidden layer over the two embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnuc_rules.models.card import ClassifierShape


class MLPClassifier(nn.Module):
    """Logits of features; float32 [N, features] -> [N, 2]. Names as in upstream's `.pth` files."""

    def __init__(self, shape: ClassifierShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(shape.features, shape.hidden)
        self.bn1 = nn.BatchNorm1d(shape.hidden)
        self.dropout = nn.Dropout(dropout)  # only in training
        self.output_layer = nn.Linear(shape.hidden, shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        hidden = F.relu(self.bn1(self.hidden_layer(x)))
        return self.output_layer(self.dropout(hidden))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def scores(self, dnabert_s: Tensor, esm2: Tensor) -> Tensor:
        """Return softmax scores [N, 2]: column 0 non-viral (score1), column 1 virus (score2)."""
        features = torch.cat([dnabert_s, esm2], dim=1)  # this order: upstream's merge
        return F.softmax(self(features), dim=1)
