"""Every setting of a run, once: its default, its check, its documentation, and who uses it.

A section is what some commands need together. A command names the sections that it takes
(`cli.settings`): its options, the rule's `params` and the keys of results follow from that. In YAML
the keys are flat. `config/config.yaml`, the table in `config/README.md` and the JSON schema are
written from here (`config.document`).
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from virnuc_rules.errors import VirnucError

SHIPPED_BUNDLE = Path("demo/bundle")  # its name in a checkout
_SHIPPED_WITH_THE_LIBRARY = Path(__file__).parents[1] / "bundles" / "demo"
_MIN_WINDOW = 3  # bases: one codon


def expanded(path: Path) -> Path:
    """Replace `~` by the home folder. Raises ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _bundle(path: Path) -> Path:
    """Find the shipped bundle from any working folder."""
    if path == SHIPPED_BUNDLE and not path.exists():
        return _SHIPPED_WITH_THE_LIBRARY
    return path


def _results(path: Path) -> Path:
    if set("{}") & set(str(path)):
        raise ValueError("Snakemake takes braces for wildcards; give another folder")
    return path


def _window(bases: int) -> int:
    if 0 < bases < _MIN_WINDOW:
        raise ValueError(f"a window has at least {_MIN_WINDOW} bases, one codon")
    return bases


UserPath = Annotated[Path, AfterValidator(expanded)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Keys that are needed together. The text below a key describes it to users."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class Inputs(Section):
    """What is to be looked at."""

    samples: UserPath = Path("config/samples.tsv")
    """sample sheet: columns sample and path"""


class Run(Section):
    """Where a run keeps what it makes, with which models, and what a failed chunk means to it."""

    results: Annotated[UserPath, AfterValidator(_results)] = Path("results")
    """folder for everything that is written"""
    bundle: Annotated[UserPath, AfterValidator(_bundle)] = SHIPPED_BUNDLE
    """folder of the model bundle"""
    on_failed_chunks: Literal["error", "report"] = "error"
    """error: the run fails after all other chunks are done; report: go on, and mark their windows
    no_call"""


class Chunking(Section):
    """What chunk folders depend on, beside the sequences."""

    window: Annotated[CountOrNone, AfterValidator(_window)] = 0
    """bases in a window; 0: as the bundle was trained for; another number is an error"""
    chunk_size: Count = 10_000
    """open frames in a chunk, the unit of work and of repetition"""
    min_length: CountOrNone = 0
    """bases of a contig below which its windows get no call (short_contig)"""
    max_ambiguous: Fraction = 1.0
    """fraction of a window's bases that may be other than A C G T U; with more it gets no call
    (too_ambiguous)"""
    duplicate_ids: Literal["error", "keep"] = "error"
    """two contigs of a sample with one id; error: stop; keep: tell them apart by contig_index, as
    for the reads of pairs"""


class Workflow(Section):
    """What only the workflow reads: which jobs there are."""

    bundle_definition: str = ""
    """name or YAML file of the definition from which a missing `bundle` is made; empty: it must be
    there"""
    persistent_models: bool = True
    """true: workers keep the models and pull chunks; false: a job loads them anew for every chunk
    (same bytes, for debugging)"""
    workers: Count = 1
    """number of model servers, one for each device"""


class Compute(Section):
    """What a command computes on."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"""
    threads: Count = 2
    """CPU threads of a model server or an embedding job; on a CPU other numbers may give other last
    digits"""


class Embedding(Section):
    """What decides the bytes of embeddings, beside chunk and bundle: part of their keys."""

    precision: Literal["auto", "fp32", "tf32", "fp16", "bf16"] = "auto"
    """of matrix products; auto: fp32 on a CPU, fp16 on CUDA (rows that are not finite again in
    fp32)"""
    batch_tokens: Annotated[int, Field(ge=64)] = 8192
    """tokens in a micro-batch, padding included"""


class Serving(Section):
    """How long workers wait: for each other, and for their models."""

    lease_seconds: Seconds = 60.0
    """a claim whose heartbeat stood still this long is taken over"""
    load_timeout: Seconds = 1800.0
    """seconds after which loading the models is given up"""


class Calling(Section):
    """When a contig is called, and when it is called virus."""

    min_score: Fraction = 0.5
    """a contig is called virus if the mean score_virus of its viral windows is at least this, and
    also the next key holds; no viral window is below 0.5"""
    min_viral_fraction: Fraction = 0.5
    """a contig is called virus if this fraction of its called windows is viral"""
    min_called_windows: Count = 1
    """a contig with fewer windows that have a call has none itself"""


class Probability(Section):
    """What calibrated probabilities depend on, beside the bundle."""

    prevalence: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """fraction of the windows with a call that you expect to be viral; it shifts the calibrated
    probability and the expected false calls, never scores or calls"""


class Splitting(Section):
    """Which labelled sequences are trained on, and which are held out."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """training: decides which group is in which part, and the first weights"""


class Calibrating(Section):
    """How a calibration is fitted."""

    calibration: Literal["auto", "temperature", "isotonic", "none"] = "auto"
    """how scores become probabilities; auto: what does better on held-out groups of the validation
    part"""


class Fitting(Section):
    """How a classifier is fitted, and where the new bundle goes."""

    trained_bundle: UserPath = Path("bundles/trained")
    """training: folder for the bundle that it makes"""
    hidden: Count = 512
    """training: width of the classifier's hidden layer"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """training: fraction of the hidden layer that is left out at each step"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.0005
    """training: of the optimizer, Adam"""
    batch: Annotated[int, Field(ge=2)] = 256
    """training: open frames a step"""
    max_epochs: Count = 100
    """training: maximum number of passes over the open frames"""
    patience: Count = 5
    """training: epochs without a better validation loss after which it ends"""
    max_per_label: CountOrNone = 0
    """training: maximum of open frames of a label, drawn at random; 0 = all"""


class Group(BaseModel):
    """Sections that a function needs together."""

    model_config = ConfigDict(extra="forbid", frozen=True)


PartT = TypeVar("PartT", bound=Section | Group)


class WorkerSettings(Group):
    """What a worker needs."""

    run: Run
    embedding: Embedding
    compute: Compute
    serving: Serving


class LabelledSettings(Group):
    """What is needed of labelled samples: to train, to calibrate, to evaluate."""

    inputs: Inputs
    run: Run
    embedding: Embedding
    compute: Compute
    calling: Calling
    splitting: Splitting


class Config(Group):
    """All settings, by section. `of` makes it from flat keys, `flat` gives them back."""

    inputs: Inputs = Field(default_factory=Inputs)
    run: Run = Field(default_factory=Run)
    chunking: Chunking = Field(default_factory=Chunking)
    workflow: Workflow = Field(default_factory=Workflow)
    compute: Compute = Field(default_factory=Compute)
    embedding: Embedding = Field(default_factory=Embedding)
    serving: Serving = Field(default_factory=Serving)
    calling: Calling = Field(default_factory=Calling)
    probability: Probability = Field(default_factory=Probability)
    splitting: Splitting = Field(default_factory=Splitting)
    calibrating: Calibrating = Field(default_factory=Calibrating)
    fitting: Fitting = Field(default_factory=Fitting)

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Make a config of flat keys. Raises ValidationError as pydantic does, KeyError for others.

        A key without a value (an empty one in YAML is None) has its default.
        """
        sections: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            if value is not None:
                sections.setdefault(_SECTION_OF[key], {})[key] = value
        return cls.model_validate(sections)

    def flat(self) -> dict[str, Any]:
        """Return all keys with their values."""
        return {key: value for _, section in self for key, value in section}

    def replace(self, **settings: Any) -> Self:
        """Return the config with other values of some flat keys."""
        return self.of(**{**self.flat(), **settings})

    def part(self, kind: type[PartT]) -> PartT:
        """Return the section of a kind, or a group of sections."""
        if issubclass(kind, Group):
            return kind(**{name: getattr(self, name) for name in kind.model_fields})
        return next(section for _, section in self if isinstance(section, kind))


SECTIONS: dict[str, type[Section]] = {
    name: type(section) for name, section in Config()
}  # by their names in Config
_SECTION_OF = {key: name for name, kind in SECTIONS.items() for key in kind.model_fields}
KEYS = tuple(_SECTION_OF)


def check_config(settings: Mapping[str, Any], source: str = "config") -> Config:
    """Check flat settings. Raises VirnucError that names `source`, the key and the problem."""
    for key in settings:
        if key not in _SECTION_OF:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean `{near[0]}`?" if near else "see config/README.md"
            raise VirnucError(f"{source}: {key}: no such key; {hint}")
    try:
        return Config.of(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"][1:])
        reason = problem["msg"].removeprefix("Value error, ")
        raise VirnucError(f"{source}: {key}: {reason} (found {problem['input']!r})") from None
