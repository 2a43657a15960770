"""Every setting of a run: its default, check, documentation, and section.

A section has the keys that some commands need together. The sections of a command determine its
options, the rule's `params` and the keys of results (`cli.settings`). In YAML the keys are flat.
`config/config.yaml`, the table in `config/README.md` and the JSON schema are written from this file
(`config.document`).
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from virnuc_rules.errors import VirnucError
from virnuc_rules.vocabulary import STANDARD_CODE

SHIPPED_BUNDLE = Path("demo/bundle")  # its path in a checkout
_SHIPPED_WITH_THE_LIBRARY = Path(__file__).parents[1] / "bundles" / "demo"
_MIN_WINDOW = 3  # bases: one codon
AUTO = "auto"
_GENETIC_CODES = (STANDARD_CODE, 4, 11, 15)  # NCBI's numbers


def expanded(path: Path) -> Path:
    """Replace `~` by the home folder. Raises ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _bundle(path: Path) -> Path:
    """Return the path of the shipped bundle also outside of a checkout."""
    if path == SHIPPED_BUNDLE and not path.exists():
        return _SHIPPED_WITH_THE_LIBRARY
    return path


def _user_path(path: Path) -> Path:
    if set("{}") & set(str(path)):
        raise ValueError("Snakemake takes braces for wildcards; give another path")
    return expanded(path)


def _window(bases: int) -> int:
    if 0 < bases < _MIN_WINDOW:
        raise ValueError(f"a window has at least {_MIN_WINDOW} bases, one codon")
    return bases


def _prevalence(text: str) -> str:
    if text != AUTO:
        try:
            known = 0 < float(text) < 1
        except ValueError:
            known = False
        if not known:
            raise ValueError("auto, or a number above 0 and below 1")
    return text


def _genetic_code(number: int) -> int:
    if number not in _GENETIC_CODES:
        raise ValueError(f"one of {', '.join(map(str, _GENETIC_CODES))}, NCBI's numbers of codes")
    return number


def _node_folder(text: str) -> str:
    if text and (text[0] not in "/$" or set("{}") & set(text) or not text.isprintable()):
        raise ValueError("a path that begins with / or a variable, without braces: $TMPDIR/virnuc")
    return text


UserPath = Annotated[Path, AfterValidator(_user_path)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0.5, le=86_400)]


class Section(BaseModel):
    """Keys that are needed together. The text below a key is its description for users."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class Inputs(Section):
    """The input."""

    samples: UserPath = Path("config/samples.tsv")
    """sample sheet: columns sample and path"""


class Run(Section):
    """Folder and models of a run, and how it treats failed chunks."""

    results: UserPath = Path("results")
    """folder for all output"""
    bundle: Annotated[UserPath, AfterValidator(_bundle)] = SHIPPED_BUNDLE
    """folder of the model bundle"""
    on_failed_chunks: Literal["error", "report"] = "error"
    """error: the run fails after all other chunks are done; report: continue, and give their
    windows no call"""
    keep_embeddings: bool = True
    """true: keep the embeddings of chunks, about 13 kB an open frame, which `train` needs; false:
    only their scores, 8 bytes; another classifier then needs all to be embedded again"""

    def check_embeddings(self, command: str) -> None:
        """Raise VirnucError where embeddings are not kept, for a command that reads them."""
        if not self.keep_embeddings:
            raise VirnucError(
                f"keep_embeddings: {command} reads embeddings, which are not kept with false; set "
                "it to true"
            )


class Chunking(Section):
    """The settings that chunk folders depend on."""

    window: Annotated[CountOrNone, AfterValidator(_window)] = 0
    """bases in a window; 0 = that of the bundle; a run refuses any other value"""
    chunk_size: Count = 10_000
    """open frames in a chunk, the unit of work; an interrupted chunk is computed again"""
    genetic_code: Annotated[
        int, AfterValidator(_genetic_code), Field(json_schema_extra={"enum": [*_GENETIC_CODES]})
    ] = STANDARD_CODE
    """of open frames and proteins, NCBI's number; 4: TGA is W; 15: TAG is Q; 11: the same stops and
    proteins as 1; the two files of VirNucPro are written with 1 only"""
    duplicate_ids: Literal["error", "keep"] = "error"
    """two contigs of a sample with the same id; error: stop; keep: both stay, with different
    contig_index, as for read pairs; windows with few bases then get calls too"""

    @property
    def like_virnucpro(self) -> bool:
        """Tell whether this is what VirNucPro does: it knows one genetic code."""
        return self.genetic_code == STANDARD_CODE


class Workflow(Section):
    """Settings of the workflow only: which jobs there are."""

    bundle_definition: str = ""
    """name or YAML file of the definition from which a missing `bundle` is made; empty: `bundle`
    must exist"""
    persistent_models: bool = True
    """true: workers load the models once and pull chunks; false: a job loads them for every chunk
    (same bytes, for debugging)"""
    workers: Count = 1
    """number of model servers, one for each device"""


class Compute(Section):
    """The hardware of a command."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto (CUDA where available, else the CPU), cpu, cuda or cuda:N"""
    threads: Count = 2
    """CPU threads of a model server or an embedding job; on a CPU the last digits of embeddings may
    depend on it"""


class Embedding(Section):
    """Settings that embeddings depend on, with chunk and bundle: part of their keys."""

    precision: Literal["auto", "fp32", "tf32", "fp16", "bf16"] = "auto"
    """of matrix products; auto: fp32 on a CPU, fp16 on CUDA (rows that are not finite are computed
    again in fp32)"""
    batch_tokens: Annotated[int, Field(ge=64)] = 8192
    """tokens in a micro-batch, padding included"""


class Serving(Section):
    """How workers load the models, and how long they wait."""

    lease_seconds: Seconds = 60.0
    """seconds without a heartbeat after which a claim is taken over"""
    load_timeout: Seconds = 1800.0
    """maximum seconds for loading the models"""
    stage_bundle: Annotated[str, AfterValidator(_node_folder)] = ""
    """folder on a disk of the node, to which the networks of `bundle` are copied, once for each
    node, and loaded from; variables such as `$TMPDIR` are those of the job; empty: no copy"""


class Calling(Section):
    """The rule for calls of contigs."""

    calls: Literal["virnucpro", "conservative", "default", "sensitive"] = "default"
    """a contig is called virus from this probability on: conservative 0.9, default 0.5, sensitive
    0.2; virnucpro: by the three keys `min_*` below, as VirNuc 0.1; a bundle without a model of
    contigs: by these keys, and at least a tenth of the windows must have a call"""
    min_score: Fraction = 0.5
    """a contig is called virus if the mean score_virus of its viral windows is at least this, and
    also the next key holds; no viral window is below 0.5"""
    min_viral_fraction: Fraction = 0.5
    """a contig is called virus if this fraction of its called windows is viral"""
    min_called_windows: Count = 1
    """a contig with fewer called windows gets no call"""


class Probability(Section):
    """The settings of calibrated probabilities, which depend on the sample."""

    prevalence: Annotated[
        str,
        BeforeValidator(str),
        AfterValidator(_prevalence),
        WithJsonSchema({"type": ["string", "number"]}),
    ] = "auto"
    """viral fraction of the windows, and of the contigs, with a call; auto: estimated for each
    sample; a number above 0 and below 1 fixes it; it shifts probabilities, so also
    calls of contigs and regions, not scores"""
    max_fdr: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """expected fraction of false calls among the contigs called virus of each sample, at most; in
    place of `calls`; 0: not used; needs a bundle with a model of contigs"""

    @property
    def fixed_prevalence(self) -> float | None:
        """Return the number, None for auto."""
        return None if self.prevalence == AUTO else float(self.prevalence)


class Splitting(Section):
    """How labelled sequences are split into parts."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """training: determines the part of each group, and the initial weights"""
    link_homologs: bool = False
    """training: groups that share a tenth of their words of eight residues are also in one part"""


class Calibrating(Section):
    """How a calibration is fitted."""

    calibration: Literal["auto", "temperature", "isotonic", "none"] = "auto"
    """how scores become probabilities; auto: the method with the smaller loss on held-out groups of
    the validation part"""


class Fitting(Section):
    """How a classifier is fitted, and the folder of the new bundle."""

    trained_bundle: UserPath = Path("bundles/trained")
    """training: folder for the new bundle"""
    hidden: Count = 512
    """training: width of the classifier's hidden layer"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """training: fraction of the hidden layer that is dropped at each step"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.0005
    """training: of the optimizer, Adam"""
    batch: Annotated[int, Field(ge=2)] = 256
    """training: open frames a step"""
    max_epochs: Count = 100
    """training: maximum number of passes over the open frames"""
    patience: Count = 5
    """training: epochs without a better validation loss before it stops"""
    max_per_label: CountOrNone = 0
    """training: maximum of open frames of a label, drawn at random; 0 = all"""


class Group(BaseModel):
    """Sections that a function needs together."""

    model_config = ConfigDict(extra="forbid", frozen=True)


PartT = TypeVar("PartT", bound=Section | Group)


class WorkerSettings(Group):
    """The settings of a worker."""

    run: Run
    embedding: Embedding
    compute: Compute
    serving: Serving


class LabelledSettings(Group):
    """The settings of train, calibrate and evaluate."""

    inputs: Inputs
    run: Run
    embedding: Embedding
    compute: Compute
    calling: Calling
    splitting: Splitting


class Config(Group):
    """All settings, by section."""

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
        """Make a config from flat keys. Raises ValidationError, and KeyError for an unknown key.

        None, as of an empty key in YAML, stands for the default.
        """
        sections: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            if value is not None:
                sections.setdefault(_SECTION_OF[key], {})[key] = value
        return cls.model_validate(sections)

    def flat(self) -> dict[str, Any]:
        """Return all keys with their values, the argument of `of`."""
        return {key: value for _, section in self for key, value in section}

    def replace(self, **settings: Any) -> Self:
        """Return a config in which some flat keys have other values."""
        return self.of(**{**self.flat(), **settings})

    def part(self, kind: type[PartT]) -> PartT:
        """Return the section of a kind, or a group of sections."""
        if issubclass(kind, Group):
            return kind(**{name: getattr(self, name) for name in kind.model_fields})
        return next(section for _, section in self if isinstance(section, kind))


SECTIONS: dict[str, type[Section]] = {name: type(section) for name, section in Config()}
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
