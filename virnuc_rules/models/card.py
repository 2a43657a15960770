"""The card of a model bundle: its description and the hashes of its files. Needs no torch."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from virnuc_rules.errors import ModelError, VirnucError, without_secrets
from virnuc_rules.files.environment import environment_named, patient, read_regular
from virnuc_rules.vocabulary import Label

DNABERT_S, TOKENIZER = "dnabert_s.safetensors", "tokenizer.json"
ESM2, CLASSIFIER = "esm2.safetensors", "classifier.safetensors"
EMBEDDING_FILES = (DNABERT_S, TOKENIZER, ESM2)
FILES = (*EMBEDDING_FILES, CLASSIFIER)
CARD = "bundle.json"


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Transformer(_Shape):
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return self


class DnabertConfig(_Transformer):
    """The shape of DNABERT-S, as in the checkpoint's `config.json`."""

    vocab_size: PositiveInt
    type_vocab_size: PositiveInt = 2
    layer_norm_eps: PositiveFloat = 1e-12


class Esm2Config(_Transformer):
    """The shape of ESM-2; `models.esm2` has the constants of all sizes."""


class ClassifierShape(_Shape):
    """Widths of the layers; upstream's are 3328 (768 DNABERT-S + 2560 ESM-2), 512 and 2."""

    features: PositiveInt
    hidden: PositiveInt
    classes: Literal[2] = 2


class Seen(_Shape):
    """A file of labelled sequences that a classifier or calibration was fitted to."""

    sample: str
    file: str  # as written in the sheet
    sha256: str  # of the file on disk
    split: str  # sha256 of the parts of its records


class CalibrationCurve(_Shape):
    """A function from margins to log odds; see `models.calibration`."""

    method: Literal["temperature", "isotonic"]
    temperature: PositiveFloat | None = None
    margin: list[float] = []  # isotonic: ascending, and the probability at each
    probability: list[float] = []

    @model_validator(mode="after")
    def _is_a_function(self) -> Self:
        if self.method == "temperature":
            if self.temperature is None:
                raise ValueError("a temperature is needed")
        elif len(self.margin) < 2 or len(self.margin) != len(self.probability):
            raise ValueError("an isotonic calibration needs as many margins as probabilities")
        return self


class Reached(_Shape):
    """What calls of contigs reach on pieces of groups that the model was not fitted to."""

    recall: float
    false_positive_rate: float

    def fdr(self, prevalence: float) -> float | None:
        """Return the fraction of false ones among the contigs called virus; None without any."""
        false, true = self.false_positive_rate * (1 - prevalence), self.recall * prevalence
        return false / (false + true) if false + true else None


class ContigModel(_Shape):
    """A logistic regression: the log odds that a contig is viral; see `prediction.contig_model`."""

    intercept: float
    coefficients: dict[str, float]  # by the name of the feature
    longest: PositiveInt  # bases of the longest pieces: a longer contig counts as one of these
    pieces: dict[Label, PositiveInt]  # that it was fitted to
    log_loss: dict[str, float]  # on held-out groups: by all features, by `evidence` alone
    reached: dict[str, dict[str, Reached]]  # by value of `calls`, and by prevalence


class Calibration(CalibrationCurve):
    """A curve, and the data that it was fitted to."""

    classifier: str  # sha256 of the classifier's file
    data: list[Seen]
    part: str  # of the data: its name, or all
    windows: dict[Label, PositiveInt]
    no_open_frame: dict[Label, float] = {}  # fraction of all windows; empty: not known
    log_loss: dict[str, float]  # by method (raw: none), on windows of held-out groups
    contigs: ContigModel | None = None  # None: too few contigs, or of a version before 0.2


class Training(_Shape):
    """The data and settings with which a classifier was trained."""

    made: str  # ISO 8601
    data: list[Seen]
    tables: dict[str, str]  # sha256 of tables of groups and annotations
    seed: int  # of the split and the weights
    groups: dict[str, int]  # in each part
    open_frames: dict[str, dict[Label, int]]  # in each part, by label
    recipe: dict[str, float]
    best_epoch: PositiveInt
    losses: list[dict[str, float]]  # of each epoch
    versions: dict[str, str]


class Origin(_Shape):
    """The source from which a network of a bundle was converted."""

    # Repository on the hub, address, or path; also of cards that older versions wrote.
    origin: Annotated[str, AfterValidator(without_secrets)]
    revision: str | None = None  # commit on the hub
    sha256: dict[str, str]  # of each file of the source
    parameters: PositiveInt


class BundleCard(BaseModel):
    """`bundle.json`: the description of a bundle, its networks and its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str  # what it was made from, and how far to trust its scores
    demo: bool  # True: a demo model, no substitute for the published ones
    window: PositiveInt  # bases of the windows that the classifier was trained on
    dnabert_s: DnabertConfig
    esm2: Esm2Config
    classifier: ClassifierShape | None  # None: a bundle for embeddings only
    training: Training | None = None  # if the classifier was trained with `train`
    calibration: Calibration | None = None  # None: no probabilities
    source: dict[str, Origin] = {}  # by network; empty if none was converted
    sha256: dict[str, str]  # of each file of the bundle
    fingerprint: str = ""  # of the embeddings, see `embedding_fingerprint`

    @model_validator(mode="after")
    def _classifier_fits(self) -> Self:
        if self.classifier and self.classifier.features != sum(self.widths):
            raise ValueError("the classifier's features are not those of the two networks")
        if self.calibration and self.calibration.classifier != self.sha256.get(CLASSIFIER):
            raise ValueError("the calibration is of another classifier; calibrate again")
        if missing := set(FILES if self.classifier else EMBEDDING_FILES) - set(self.sha256):
            raise ValueError(f"no sha256 of {', '.join(sorted(missing))}")
        return self

    def embedding_fingerprint(self) -> str:
        """Hash everything that embeddings depend on: both networks and the tokenizer.

        Not the classifier: embeddings are computed once for all classifiers.
        """
        shapes = [self.dnabert_s.model_dump(), self.esm2.model_dump()]
        hashes = {name: self.sha256[name] for name in EMBEDDING_FILES}
        return hashlib.sha256(json.dumps([shapes, hashes], sort_keys=True).encode()).hexdigest()

    @property
    def widths(self) -> tuple[int, int]:
        """Return the widths of the embeddings of DNABERT-S and ESM-2."""
        return self.dnabert_s.hidden_size, self.esm2.hidden_size

    @property
    def contig_model(self) -> ContigModel | None:
        """Return the model of contigs; None where the bundle has none."""
        return self.calibration.contigs if self.calibration else None

    def check_max_fdr(self, max_fdr: float) -> None:
        """Raise VirnucError where `max_fdr` is set and there is no model of contigs."""
        if max_fdr and self.contig_model is None:
            raise VirnucError(
                f"max_fdr: bundle {self.name} has no model of contigs, so false calls of contigs "
                "cannot be expected; fit one with `virnuc-rules calibrate`, or set max_fdr to 0"
            )

    @property
    def prediction_fingerprint(self) -> str:
        """Hash everything that tables depend on: every file of the bundle and the calibration."""
        calibration = self.calibration and self.calibration.model_dump()
        text = json.dumps([self.sha256, calibration], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def is_bundle(folder: Path) -> bool:
    """Tell whether the folder is a bundle."""
    return (folder / CARD).exists()


@patient
def read_card(folder: Path) -> BundleCard:
    """Read `bundle.json`. Raises ModelError if it is missing, invalid, or was changed.

    Raises EnvironmentProblem if it cannot be read.
    """
    path = folder / CARD
    try:
        with environment_named(path):
            card = BundleCard.model_validate_json(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path}: no such file; give the folder of a model bundle, or make it: "
            "`virnuc-rules models prepare`, or the config key `bundle_definition`"
        ) from None
    except (OSError, ValidationError) as error:
        reason = "; ".join(" ".join(line.split()) for line in str(error).splitlines()[:3])
        raise ModelError(f"{path}: not a bundle card ({reason}); make the bundle again") from None
    if card.fingerprint != card.embedding_fingerprint():
        raise ModelError(f"{path}: changed since it was written; make the bundle again")
    return card
