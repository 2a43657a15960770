"""Fitting: it learns, stops, keeps the best weights, and gives the same ones again."""

import numpy as np
import pytest
import torch

from virnuc_rules.config.model import Fitting
from virnuc_rules.errors import VirnucError
from virnuc_rules.training import fit as module
from virnuc_rules.training.dataset import Block, Rows
from virnuc_rules.training.fit import Fitted, fit, mean_loss

CPU = torch.device("cpu")
RECIPE = Fitting(hidden=16, dropout=0.2, learning_rate=3e-3, batch=32, max_epochs=8, patience=3)


def rows(sizes: tuple[int, int], seed: int, distance: float = 1.0) -> Rows:
    """Two clouds of points, of which a few dimensions differ."""
    torch.manual_seed(seed)
    made = []
    for label, size in enumerate(sizes):
        x = torch.randn(size, 12)
        x[:, :3] += distance * label
        made.append(Block(x[:, :8], x[:, 8:], np.arange(size), label))
    return Rows(made)


def weights(fitted: Fitted) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in fitted.network.state_dict().items()}


def shares(fitted: Fitted, data: Rows) -> list[float]:
    """Share of each label's rows that are called virus."""
    found = []
    for block in data.blocks:
        scores = fitted.network.scores(block.dnabert_s, block.esm2)
        found.append((scores[:, 1] > 0.5).float().mean().item())
    return found


def test_it_learns_what_there_is_to_learn() -> None:
    fitted = fit(rows((400, 400), 1, 1.5), rows((100, 100), 2, 1.5), RECIPE, 1, CPU)
    non_viral, virus = shares(fitted, rows((500, 500), 3, 1.5))
    assert non_viral < 0.15
    assert virus > 0.85  # the best possible: 0.90


def test_a_rare_label_weighs_as_much() -> None:
    fitted = fit(rows((1500, 60), 1), rows((300, 30), 2), RECIPE, 1, CPU)
    non_viral, virus = shares(fitted, rows((1000, 1000), 3))
    assert virus > 0.6
    assert non_viral < 0.4


def test_two_fits_give_the_same_bytes_and_other_seeds_others() -> None:
    data, held_out = rows((200, 200), 1), rows((50, 50), 2)
    first, again = (fit(data, held_out, RECIPE, 1, CPU) for _ in range(2))
    assert weights(first) == weights(again)
    assert first.losses == again.losses
    torch.rand(5)  # what else draws random numbers does not matter
    assert weights(fit(data, held_out, RECIPE, 2, CPU)) != weights(first)


def test_the_weights_are_those_of_the_best_epoch() -> None:
    # Few rows and a fast rate: it learns them by heart, and the validation loss rises.
    recipe = RECIPE.model_copy(update={"learning_rate": 0.02, "max_epochs": 60, "patience": 6})
    data, held_out = rows((40, 40), 1, 0.7), rows((300, 300), 2, 0.7)
    fitted = fit(data, held_out, recipe, 1, CPU)
    losses = [each["validation"] for each in fitted.losses]
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == fitted.best_epoch + recipe.patience  # stopped early
    assert losses[-1] > min(losses)
    assert mean_loss(fitted.network, held_out, CPU) == pytest.approx(min(losses), abs=1e-9)


def test_the_loss_is_the_weighted_mean() -> None:
    fitted = fit(rows((50, 50), 1), rows((20, 20), 2), RECIPE, 1, CPU)
    data = rows((90, 30), 3)
    means = [
        torch.nn.functional.cross_entropy(
            fitted.network(block.features(block.rows)),
            torch.full((len(block.rows),), block.label),
        ).item()
        for block in data.blocks
    ]
    assert mean_loss(fitted.network, data, CPU) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_upstreams_start_and_dropout() -> None:
    torch.manual_seed(0)
    network = module._new_network(3328, RECIPE.model_copy(update={"hidden": 512}))
    bound = (6 / (3328 + 512)) ** 0.5  # of Xavier's uniform distribution
    assert network.hidden_layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    x = torch.randn(4, 3328)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    data = rows((50, 50), 1)
    data.blocks[0].dnabert_s[3, 3] = float("inf")
    with pytest.raises(VirnucError, match="epoch 1: the loss is not finite"):
        fit(data, rows((20, 20), 2), RECIPE, 1, CPU)
