"""Every setting of a run: one model gives the defaults, the checks and the documentation.

`config/config.yaml` and the table in `config/README.md` are written from it (a test keeps them
equal), Snakemake checks with it, and the options of `virnuc-rules` take their defaults and help
texts from it.
"""

import csv
import glob
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from virnuc_rules.errors import VirnucError

_SAMPLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Config(BaseModel):
    """The keys of the config file. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: Path = Field(
        Path("config/samples.tsv"), description="sample sheet: columns sample and path"
    )
    results: Path = Field(Path("results"), description="folder for everything that is written")
    bundle: Path = Field(Path("demo/bundle"), description="folder of the model bundle")
    bundle_definition: str = Field(
        "",
        description="name or YAML file of the definition from which a missing `bundle` is made; "
        "empty: it must be there",
    )
    window: Annotated[int, Field(ge=3)] = Field(
        500, description="bases in a window; must be the one that the bundle was trained for"
    )
    chunk_size: Annotated[int, Field(ge=1)] = Field(
        10_000, description="open frames in a chunk, the unit of work and of repetition"
    )
    min_length: Annotated[int, Field(ge=0)] = Field(
        0, description="bases of a contig below which its windows get no call (short_contig)"
    )
    max_ambiguous: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="share of a window's bases that may be other than A C G T U; with more it gets "
        "no call (too_ambiguous)",
    )
    duplicate_ids: Literal["error", "keep"] = Field(
        "error",
        description="two contigs of a sample with one id; error: stop; keep: tell them apart by "
        "contig_number, as for the reads of pairs",
    )
    persistent_models: bool = Field(
        True,
        description="true: workers keep the models and pull chunks; false: a job loads them anew "
        "for every chunk (same bytes, for debugging)",
    )
    workers: Annotated[int, Field(ge=1)] = Field(
        1, description="number of model servers, one for each device"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (CUDA where there is one, else the CPU), cpu, cuda or cuda:N"
    )
    threads: Annotated[int, Field(ge=1)] = Field(
        2,
        description="CPU threads of a model server or an embedding job; on a CPU other numbers may "
        "give other last digits",
    )
    precision: Literal["auto", "fp32", "tf32", "fp16", "bf16"] = Field(
        "auto",
        description="of matrix products; auto: fp32 on a CPU, fp16 on CUDA (rows that are not "
        "finite again in fp32)",
    )
    batch_tokens: Annotated[int, Field(ge=64)] = Field(
        8192, description="tokens in a micro-batch, padding included"
    )
    cache_clear_interval: Annotated[int, Field(ge=0)] = Field(
        10, description="chunks between clearings of the memory caches; 0 = never"
    )
    lease_seconds: Annotated[float, Field(gt=0)] = Field(
        60, description="a claim whose heartbeat stood still this long is taken over"
    )
    load_timeout: Annotated[float, Field(gt=0)] = Field(
        1800, description="seconds after which loading the models is given up"
    )
    min_score: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="a contig is called virus if the mean score_virus of its viral windows is at "
        "least this, and also the next key holds; no viral window is below 0.5",
    )
    min_viral_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="a contig is called virus if this share of its called windows is viral"
    )
    min_called_windows: Annotated[int, Field(ge=1)] = Field(
        1, description="a contig with fewer windows that have a call has none itself"
    )
    on_failed_chunks: Literal["error", "report"] = Field(
        "error",
        description="error: the run fails after all other chunks are done; report: go on, and mark "
        "their windows no_call",
    )

    prevalence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5,
        description="share of the windows with a call that you expect to be viral; it shifts the "
        "calibrated probability and the expected share of false calls, never scores or calls",
    )
    trained_bundle: Path = Field(
        Path("bundles/trained"), description="training: folder for the bundle that it makes"
    )
    hidden: Annotated[int, Field(ge=1)] = Field(
        512, description="training: width of the classifier's hidden layer"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="training: share of the hidden layer that is left out at each step"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.0005, description="training: of the optimizer, Adam"
    )
    batch: Annotated[int, Field(ge=2)] = Field(256, description="training: open frames a step")
    max_epochs: Annotated[int, Field(ge=1)] = Field(
        100, description="training: passes over the open frames at most"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        5, description="training: epochs without a better validation loss after which it ends"
    )
    max_per_label: Annotated[int, Field(ge=0)] = Field(
        0, description="training: open frames of a label at most, drawn at random; 0: all"
    )
    calibration: Literal["auto", "temperature", "isotonic", "none"] = Field(
        "auto",
        description="how scores become probabilities; auto: what does better on held-out groups of "
        "the validation part",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        1, description="training: decides which group is in which part, and the first weights"
    )

    def options(self, *keys: str) -> str:
        """Return keys as options of `virnuc-rules`, quoted for a shell line."""
        words: list[str] = []
        for key in keys:
            name, value = key.replace("_", "-"), getattr(self, key)
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words += [f"--{name}", str(value)]
        return shlex.join(words)


def check_config(settings: dict[str, Any]) -> Config:
    """Check a parsed config file. Raises VirnucError that names the key and the problem."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise VirnucError(f"config: {key}: {problem['msg']} (found {problem['input']!r})") from None


def document() -> str:
    """Write the config file: every key with its description and its default."""
    lines = ["# Settings of VirNuc. Every key may be left out; these are the defaults.", ""]
    values = Config().model_dump(mode="json")
    for key, field in Config.model_fields.items():
        value = values[key]
        text = str(value).lower() if isinstance(value, bool) else str(value) or '""'
        lines += [f"# {field.description}", f"{key}: {text}", ""]
    return "\n".join(lines).rstrip() + "\n"


def key_table() -> str:
    """Write the keys as a Markdown table: key, default, values, meaning."""
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    values = Config().model_dump(mode="json")
    for key, schema in Config.model_json_schema()["properties"].items():
        default = str(values[key]).lower() if schema["type"] == "boolean" else str(values[key])
        cells = (f"`{key}`", f"`{default}`" if default else "empty", _values(schema))
        lines.append(f"| {' | '.join(cells)} | {schema['description']} |")
    return "\n".join(lines) + "\n"


def _values(schema: dict[str, Any]) -> str:
    """Return which values a key takes, from its JSON schema."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = {"string": "text", "boolean": "`true`, `false`"}.get(schema["type"], schema["type"])
    if schema.get("format") == "path":
        return "path"
    if "maximum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    return ", ".join([kind, *(f"{bounds[k]} {schema[k]}" for k in bounds if k in schema)])


def read_samples(sheet: Path) -> dict[str, list[Path]]:
    """Read a sample sheet: tab-separated, with a header and the columns `sample` and `path`.

    The files of a sample are in the order of its rows; those that a pattern (`*`, `?`, `[...]`)
    matches are sorted. Raises VirnucError with file, line and fix.
    """
    try:
        with sheet.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if reader.fieldnames is None or {"sample", "path"} - set(reader.fieldnames):
                raise VirnucError(
                    f"{sheet}: line 1: the columns 'sample' and 'path' are needed, tab-separated"
                )
            samples = _samples(sheet, reader)
    except csv.Error as error:
        raise VirnucError(f"{sheet}: line {reader.line_num + 1}: not a table ({error})") from None
    except OSError as error:
        raise VirnucError(f"{sheet}: cannot be read ({error.strerror}); set `samples`") from None
    except UnicodeDecodeError:
        raise VirnucError(f"{sheet}: not UTF-8 text; save it as tab-separated text") from None
    if not samples:
        raise VirnucError(f"{sheet}: no samples; add a line with a sample and a path")
    return samples


def _samples(sheet: Path, rows: "csv.DictReader[str]") -> dict[str, list[Path]]:
    samples: dict[str, list[Path]] = {}
    for row in rows:
        name, path = (row["sample"] or "").strip(), (row["path"] or "").strip()
        where = f"{sheet}: line {rows.line_num}:"
        if not _SAMPLE.fullmatch(name):
            raise VirnucError(
                f"{where} sample name {name!r}: use letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit"
            )
        if not path:
            raise VirnucError(f"{where} sample {name!r} has no path; add one")
        files = samples.setdefault(name, [])
        for file in matches(path):
            if file in files:
                raise VirnucError(f"{where} sample {name!r} has {file} twice; remove one of them")
            files.append(file)
    return samples


def matches(path: str) -> list[Path]:
    """Return the files that a pattern matches, sorted; what is no pattern, or matches none, as is.

    That a pattern matches none is for `check_inputs` to say: workers may run where no data are.
    """
    if not glob.has_magic(path) or Path(path).exists():
        return [Path(path)]
    return [Path(found) for found in sorted(glob.glob(path))] or [Path(path)]  # noqa: PTH207


def check_inputs(config: Config, samples: dict[str, list[Path]]) -> None:
    """Raise VirnucError for the first file that is missing, of a sample that is not chunked yet."""
    for sample, paths in samples.items():
        if (config.results / "chunks" / sample / "manifest.json").exists():
            continue
        for path in paths:
            if not path.exists():
                problem = "no file matches" if glob.has_magic(str(path)) else "no such file"
                raise VirnucError(f"{config.samples}: sample {sample}: {path}: {problem}")
