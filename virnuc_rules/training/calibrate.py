"""Fitting a calibration to labelled windows that the classifier was not trained on."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.calibration import Odds, log_odds
from virnuc_rules.models.card import Calibration, CalibrationCurve, ContigModel, Seen
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.training.contig_fit import cut_pieces, fit_contig_model
from virnuc_rules.training.holdout import parts_of
from virnuc_rules.training.labelled import Labelled
from virnuc_rules.training.scored import Scored
from virnuc_rules.training.split import PARTS, Parts, hash_fraction
from virnuc_rules.vocabulary import Label

MIN_WINDOWS = 10  # of each label
_TEMPERATURES = (0.05, 20.0)
_HALVES_SEED = -1  # users choose seeds from 0, so this split differs from theirs


def fit_calibration(
    margin: Float,
    virus: Bool,
    group: list[str],
    method: str,
    *,
    classifier: str,
    data: list[Seen],
    part: str,
    no_open_frame: dict[Label, float],
) -> Calibration:
    """Fit a calibration to windows with a call: margin [W], virus [W], group [W].

    `auto` takes the method with the smaller loss on held-out groups: each method is fitted to one
    half of the groups and measured on the other half, both ways. Both labels have the same total
    weight. `classifier`, `data`, `part` and `no_open_frame` are copied into the Calibration.
    Raises VirnucError for too few windows.
    """
    counts = np.bincount(virus, minlength=len(Label))
    if counts.min() < MIN_WINDOWS:
        raise VirnucError(
            f"{counts.min()} windows of label {list(Label)[counts.argmin()]} to calibrate with; "
            f"{MIN_WINDOWS} are needed"
        )
    losses = _held_out_losses(margin, virus, group)
    if method == "auto":
        method = min(("temperature", "isotonic"), key=lambda name: losses.get(name, 0))
    return Calibration(
        **_METHODS[method](margin, virus).model_dump(),
        classifier=classifier,
        data=data,
        part=part,
        windows=dict(zip(Label, counts.tolist(), strict=True)),
        log_loss=losses,
        no_open_frame=no_open_frame,
    )


def no_open_frame(windows: Scored) -> dict[Label, float]:
    """Return the fraction of the windows of each label that have no open frame.

    With one more window of both kinds, so that it is never 0 or 1 (Laplace's rule).
    """
    known = windows.where(~windows.failed & ~windows.floor)
    return {
        label: float((np.sum(~known.called & of) + 1) / (np.sum(of) + 2))
        for label in Label
        for of in [known.virus == bool(label.code)]
    }


def fit_contigs(
    calibration: Calibration, called: list[WindowCalls], labelled: Labelled, part: Parts
) -> ContigModel | None:
    """Fit the model of contigs to the windows [W] of each labelled sample; None: too few contigs.

    The calibration is that of the same part of the data.
    """
    windows, samples = WindowCalls.joined(called), labelled.samples
    virus = np.repeat([bool(s.label) for s in samples], [len(s.group) for s in samples])
    group = np.concatenate([sample.group for sample in samples])
    parts = np.concatenate([sample.part for sample in samples])
    chosen = np.isin(parts, [PARTS.index(each) for each in PARTS if each in parts_of(part)])
    chosen &= ~np.concatenate([sample.known_homolog for sample in samples])
    first = np.array([hash_fraction(name, _HALVES_SEED) < 0.5 for name in labelled.groups])
    used = windows.called & chosen[windows.index]
    is_first = first[group][windows.index]

    def odds(of_first: bool | None) -> Odds:
        if of_first is None:
            return Odds.of(calibration)
        rows = used & (is_first == of_first)
        curve = _METHODS[calibration.method](windows.margin[rows], virus[windows.index[rows]])
        return Odds(curve, calibration.no_open_frame)

    pieces = cut_pieces(windows, virus, group, chosen)
    return fit_contig_model(pieces, first[pieces.group], odds)


def _held_out_losses(margin: Float, virus: Bool, group: list[str]) -> dict[str, float]:
    """Return the mean loss of each method over both held-out halves of the groups."""
    first = {name: hash_fraction(name, _HALVES_SEED) < 0.5 for name in set(group)}
    half = np.array([first[name] for name in group])
    sides = [half, ~half]
    if min(np.bincount(virus[side], minlength=2).min() for side in sides) == 0:
        return {}  # too few groups to hold out a half
    losses: dict[str, list[float]] = {name: [] for name in ("raw", *_METHODS)}
    for side in sides:
        weights = balanced_weights(virus[side])
        curves = {name: fit(margin[~side], virus[~side]) for name, fit in _METHODS.items()}
        curves["raw"] = CalibrationCurve(method="temperature", temperature=1.0)
        for name, values in losses.items():
            p = expit(log_odds(curves[name], margin[side]))
            values.append(log_loss(virus[side], p, sample_weight=weights))
    return {name: float(np.mean(values)) for name, values in losses.items()}


def balanced_weights(virus: Bool, prevalence: float = 0.5) -> NDArray[np.float64]:
    """Return weights [W] that sum to `prevalence` over viral windows, and to 1 over all."""
    counts: Int = np.bincount(virus, minlength=2)
    of_label = np.array([1 - prevalence, prevalence]) / np.maximum(1, counts)
    weights: NDArray[np.float64] = of_label[virus.astype(int)]
    return weights


def _temperature(margin: Float, virus: Bool) -> CalibrationCurve:
    """Return the temperature with the minimum loss.

    The targets are Platt's (1999), (n + 1) / (n + 2) and 1 / (n + 2): where a few windows are
    separated without error, probabilities must not become 0 and 1.
    """
    weights = balanced_weights(virus)
    non_viral, viral = np.bincount(virus, minlength=2)
    target = np.where(virus, (viral + 1) / (viral + 2), 1 / (non_viral + 2))

    def loss(temperature: float) -> float:
        odds = margin / temperature
        # -t log p - (1 - t) log(1 - p), with log p = -log(1 + exp(-odds))
        return float(np.sum(weights * (np.logaddexp(0, odds) - target * odds)))

    best = minimize_scalar(loss, bounds=_TEMPERATURES, method="bounded")
    return CalibrationCurve(method="temperature", temperature=float(best.x))


def _isotonic(margin: Float, virus: Bool) -> CalibrationCurve:
    """Return a rising curve through means, with Platt's targets as its limits."""
    non_viral, viral = np.bincount(virus, minlength=2)
    curve = IsotonicRegression(
        y_min=1 / (viral + 2), y_max=1 - 1 / (non_viral + 2), out_of_bounds="clip"
    )
    curve.fit(margin, virus, sample_weight=balanced_weights(virus))
    x, y = curve.X_thresholds_.astype(float), curve.y_thresholds_.astype(float)
    if len(x) == 1:
        x, y = np.repeat(x, 2), np.repeat(y, 2)
    return CalibrationCurve(method="isotonic", margin=x.tolist(), probability=y.tolist())


_METHODS: dict[str, Callable[[Float, Bool], CalibrationCurve]] = {
    "temperature": _temperature,
    "isotonic": _isotonic,
}
