"""Fit the classifier: gradient descent on the train part, stopped by the validation part."""

import copy
import logging
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnuc_rules.config.model import Fitting
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import ClassifierShape
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.progress import progress
from virnuc_rules.training.dataset import Rows

logger = logging.getLogger(__name__)

_BATCH = 4096  # rows at once without gradients


@dataclass(slots=True)
class Fitted:
    """A classifier with the weights of its best epoch, and the losses on the way."""

    network: MLPClassifier
    best_epoch: int = 0  # from 1
    losses: list[dict[str, float]] = field(default_factory=list)  # of each epoch


def fit(train: Rows, validation: Rows, recipe: Fitting, seed: int, device: torch.device) -> Fitted:
    """Fit a classifier to the features of open frames; both labels have the same total weight.

    The loss is the weighted cross-entropy; the best epoch has the minimum loss on the validation
    rows. The same recipe, seed, rows and device type give the same weights. Raises VirnucError
    where the loss is not finite.
    """
    torch.use_deterministic_algorithms(True)
    draw = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fitted = Fitted(_new_network(train.blocks[0].width, recipe).to(device))
        optimizer = torch.optim.Adam(fitted.network.parameters(), recipe.learning_rate)
        best: dict[str, Tensor] = {}
        for epoch in range(1, recipe.max_epochs + 1):
            with progress(f"epoch {epoch}", int(train.counts.sum())) as advance:
                loss = 0.0
                for x, y in train.shuffled(recipe.batch, draw):
                    loss += _step(fitted.network, optimizer, x.to(device), y.to(device), train)
                    advance(len(y))
            losses = {"train": loss, "validation": mean_loss(fitted.network, validation, device)}
            logger.info("epoch %d: loss %.4f, validation %.4f", epoch, *losses.values())
            if not np.isfinite(list(losses.values())).all():
                raise VirnucError(f"epoch {epoch}: the loss is not finite; lower `learning_rate`")
            fitted.losses.append(losses)
            if losses["validation"] <= min(before["validation"] for before in fitted.losses):
                # A copy: the tensors of `state_dict` change with the network.
                best = copy.deepcopy(fitted.network.state_dict())
                fitted.best_epoch = epoch
            elif epoch - fitted.best_epoch >= recipe.patience:
                break
        fitted.network.load_state_dict(best)
    fitted.network.cpu().eval().requires_grad_(False)
    return fitted


def _new_network(width: int, recipe: Fitting) -> MLPClassifier:
    """Initialize as upstream does: Xavier's uniform weights, torch's default biases."""
    shape = ClassifierShape(features=width, hidden=recipe.hidden)
    network = MLPClassifier(shape, recipe.dropout)
    nn.init.xavier_uniform_(network.hidden_layer.weight)
    nn.init.xavier_uniform_(network.output_layer.weight)
    return network


def _weights(y: Tensor, rows: Rows) -> Tensor:
    """Return weights that sum to one half for each label over all rows."""
    return torch.from_numpy(0.5 / rows.counts).float().to(y.device)[y]


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, rows: Rows
) -> float:
    """Take one step; return what the batch adds to the loss over all rows."""
    network.train()
    optimizer.zero_grad()
    loss = (F.cross_entropy(network(x), y, reduction="none") * _weights(y, rows)).sum()
    (loss * (rows.counts.sum() / len(y))).backward()
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def mean_loss(network: nn.Module, rows: Rows, device: torch.device) -> float:
    """Return the loss over all rows; each label has a total weight of one half."""
    network.eval()
    total = 0.0
    for x, y in rows.in_order(_BATCH):
        x, y = x.to(device), y.to(device)
        losses = F.cross_entropy(network(x), y, reduction="none")
        total += (losses * _weights(y, rows)).sum().item()
    return total
