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


class Section(BaseModel):
    """Keys that are needed together."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


SectionT = TypeVar("SectionT", bound=Section)


class Inputs(Section):
    """What is to be looked at."""

    samples: UserPath = Field(
        Path("config/samples.tsv"), description="sample sheet: columns sample and path"
    )


class Run(Section):
    """Where a run keeps what it makes, with which models, and what a failed chunk means to it."""

    results: Annotated[UserPath, AfterValidator(_results)] = Field(
        Path("results"), description="folder for everything that is written"
    )
    bundle: Annotated[UserPath, AfterValidator(_bundle)] = Field(
        SHIPPED_BUNDLE, description="folder of the model bundle"
    )
    on_failed_chunks: Literal["error", "report"] = Field(
        "error",
        description="error: the run fails after all other chunks are done; report: go on, and mark "
        "their windows no_call",
    )


class Chunking(Section):
    """What chunk folders depend on, beside the sequences."""

    window: Annotated[int, Field(ge=0), AfterValidator(_window)] = Field(
        0, description="bases in a window; 0: as the bundle was trained for; another is an error"
    )
    chunk_size: Annotated[int, Field(ge=1)] = Field(
        10_000, description="open frames in a chunk, the unit of work and of repetition"
    )
    min_length: Annotated[int, Field(ge=0)] = Field(
        0, description="bases of a contig below which its windows get no call (short_contig)"
    )
    max_ambiguous: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="fraction of a window's bases that may be other than A C G T U; with more it "
        "gets no call (too_ambiguous)",
    )
    duplicate_ids: Literal["error", "keep"] = Field(
        "error",
        description="two contigs of a sample with one id; error: stop; keep: tell them apart by "
        "contig_index, as for the reads of pairs",
    )


class Workflow(Section):
    """What only the workflow reads: which jobs there are."""

    bundle_definition: str = Field(
        "",
        description="name or YAML file of the definition from which a missing `bundle` is made; "
        "empty: it must be there",
    )
    persistent_models: bool = Field(
        True,
        description="true: workers keep the models and pull chunks; false: a job loads them anew "
        "for every chunk (same bytes, for debugging)",
    )
    workers: Annotated[int, Field(ge=1)] = Field(
        1, description="number of model servers, one for each device"
    )


class Compute(Section):
    """What a command computes on."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
    )
    threads: Annotated[int, Field(ge=1)] = Field(
        2,
        description="CPU threads of a model server or an embedding job; on a CPU other numbers may "
        "give other last digits",
    )


class Embedding(Section):
    """What decides the bytes of embeddings, beside chunk and bundle: part of their keys."""

    precision: Literal["auto", "fp32", "tf32", "fp16", "bf16"] = Field(
        "auto",
        description="of matrix products; auto: fp32 on a CPU, fp16 on CUDA (rows that are not "
        "finite again in fp32)",
    )
    batch_tokens: Annotated[int, Field(ge=64)] = Field(
        8192, description="tokens in a micro-batch, padding included"
    )


class Serving(Section):
    """How long workers wait: for each other, and for their models."""

    lease_seconds: Annotated[float, Field(gt=0)] = Field(
        60, description="a claim whose heartbeat stood still this long is taken over"
    )
    load_timeout: Annotated[float, Field(gt=0)] = Field(
        1800, description="seconds after which loading the models is given up"
    )


class Calling(Section):
    """When a contig is called, and when it is called virus."""

    min_score: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="a contig is called virus if the mean score_virus of its viral windows is at "
        "least this, and also the next key holds; no viral window is below 0.5",
    )
    min_viral_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="a contig is called virus if this fraction of its called windows is viral"
    )
    min_called_windows: Annotated[int, Field(ge=1)] = Field(
        1, description="a contig with fewer windows that have a call has none itself"
    )


class Probability(Section):
    """What calibrated probabilities depend on, beside the bundle."""

    prevalence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5,
        description="fraction of the windows with a call that you expect to be viral; it shifts "
        "the calibrated probability and the expected false calls, never scores or calls",
    )


class Splitting(Section):
    """Which labelled sequences are trained on, and which are held out."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        1, description="training: decides which group is in which part, and the first weights"
    )


class Calibrating(Section):
    """How a calibration is fitted."""

    calibration: Literal["auto", "temperature", "isotonic", "none"] = Field(
        "auto",
        description="how scores become probabilities; auto: what does better on held-out groups of "
        "the validation part",
    )


class Fitting(Section):
    """How a classifier is fitted, and where the new bundle goes."""

    trained_bundle: UserPath = Field(
        Path("bundles/trained"), description="training: folder for the bundle that it makes"
    )
    hidden: Annotated[int, Field(ge=1)] = Field(
        512, description="training: width of the classifier's hidden layer"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="training: fraction of the hidden layer that is left out at each step"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.0005, description="training: of the optimizer, Adam"
    )
    batch: Annotated[int, Field(ge=2)] = Field(256, description="training: open frames a step")
    max_epochs: Annotated[int, Field(ge=1)] = Field(
        100, description="training: maximum number of passes over the open frames"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        5, description="training: epochs without a better validation loss after which it ends"
    )
    max_per_label: Annotated[int, Field(ge=0)] = Field(
        0, description="training: maximum of open frames of a label, drawn at random; 0 = all"
    )


class Config(BaseModel):
    """All settings, by section. `of` makes it from flat keys, `flat` gives them back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    def section(self, kind: type[SectionT]) -> SectionT:
        """Return the section of a kind."""
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
        raise VirnucError(
            f"{source}: {key}: {problem['msg']} (found {problem['input']!r})"
        ) from None
