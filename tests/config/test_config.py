"""Settings and sample sheets: defaults written once, and mistakes named with file and line."""

import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import virnuc_rules
from virnuc_rules.config.model import (
    Config,
    check_config,
    check_inputs,
    document,
    key_table,
    read_samples,
)
from virnuc_rules.errors import VirnucError

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# --- the config file ---------------------------------------------------------------------------


def test_the_config_file_is_the_one_that_the_model_writes() -> None:
    assert (ROOT / "config/config.yaml").read_text() == document()


def test_the_table_of_keys_is_the_one_that_the_model_writes() -> None:
    table = (ROOT / "config/README.md").read_text().partition("## Keys\n\n")[2]
    assert table == key_table()
    rows = {row.split(" | ")[0]: row.split(" | ")[1:3] for row in table.splitlines()}
    assert rows["| `window`"] == ["`500`", "integer, from 3"]
    assert rows["| `min_score`"] == ["`0.5`", "number, 0 to 1"]
    assert rows["| `lease_seconds`"] == ["`60.0`", "number, above 0"]
    assert rows["| `persistent_models`"] == ["`true`", "`true`, `false`"]
    assert rows["| `duplicate_ids`"] == ["`error`", "`error`, `keep`"]


def test_the_config_file_holds_the_defaults() -> None:
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert list(settings) == list(Config.model_fields)
    assert check_config(settings) == check_config({}) == Config()


def test_the_config_of_the_demo_is_sound() -> None:
    config = check_config(yaml.safe_load((ROOT / "demo/config.yaml").read_text()))
    samples = read_samples(ROOT / config.samples)
    assert set(samples) == {"lake", "gut"}
    assert all((ROOT / path).is_file() for (path,) in samples.values())
    assert (ROOT / config.bundle / "bundle.json").is_file()


@pytest.mark.parametrize("key", Config.model_fields)
def test_every_key_has_a_description_of_one_line(key: str) -> None:
    description = Config.model_fields[key].description
    assert description
    assert "\n" not in description
    assert f"# {description}\n{key}: " in document()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("windw", 500),
        ("window", "wide"),
        ("window", 2),
        ("window", 500.5),
        ("window", None),
        ("window", [500]),
        ("chunk_size", 0),
        ("min_length", -1),
        ("max_ambiguous", 1.1),
        ("max_ambiguous", float("nan")),
        ("duplicate_ids", "rename"),
        ("persistent_models", "maybe"),
        ("workers", 0),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:0; rm -r /"),
        ("threads", 0),
        ("precision", "fp8"),
        ("batch_tokens", 63),
        ("cache_clear_interval", -1),
        ("lease_seconds", 0),
        ("lease_seconds", float("nan")),
        ("load_timeout", -1),
        ("on_failed_chunks", "ignore"),
        ("samples", 5),
        ("samples", None),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(key: str, value: object) -> None:
    with pytest.raises(VirnucError) as raised:
        check_config({"chunk_size": 10, key: value})
    message = str(raised.value)
    assert message.startswith(f"config: {key}: ")
    assert message.endswith(f"(found {value!r})")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices(device: str) -> None:
    assert check_config({"device": device}).device == device


# --- options for a shell line ------------------------------------------------------------------


def test_options_are_those_of_the_command_line() -> None:
    config = Config(chunk_size=7, results=Path("a b;c"))
    assert config.options("chunk_size", "lease_seconds") == "--chunk-size 7 --lease-seconds 60"
    assert config.options("results") == "--results 'a b;c'"
    assert config.options() == ""


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_options_survive_the_shell(text: str) -> None:
    config = Config(results=Path(text), bundle=Path(f"$(touch x) `y` 'z' {text}"), window=9)
    words = shlex.split(config.options("results", "window", "bundle"))
    assert words == ["--results", str(config.results), "--window", "9", "--bundle",
                     str(config.bundle)]  # fmt: skip


# --- sample sheets -----------------------------------------------------------------------------


def sheet_error(sheet: Path) -> str:
    with pytest.raises(VirnucError) as raised:
        read_samples(sheet)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{sheet}: ")
    return message.removeprefix(f"{sheet}: ")


@pytest.mark.parametrize(
    "text",
    [
        "sample\tpath\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa\n",
        "sample\tpath\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa",
        "sample\tpath\r\nlake\tlake.fa.gz\r\ngut-2.b_C\tmy data/gut.fa\r\n",
        "\ufeffsample\tpath\r\nlake\tlake.fa.gz\r\ngut-2.b_C\tmy data/gut.fa\r\n",
        "sample\tpath\n\nlake\tlake.fa.gz\n\ngut-2.b_C\tmy data/gut.fa\n\n",
        "note\tpath\tsample\nx\tlake.fa.gz\tlake\n\tmy data/gut.fa\tgut-2.b_C\n",
        "sample\tpath\n lake \t lake.fa.gz \ngut-2.b_C\tmy data/gut.fa\tand more\n",
    ],
    ids=["plain", "no last newline", "CRLF", "BOM", "blank lines", "more columns", "spaces"],
)
def test_sample_sheets(tmp_path: Path, text: str) -> None:
    sheet = tmp_path / "samples.tsv"
    sheet.write_bytes(text.encode())
    expected = {"lake": [Path("lake.fa.gz")], "gut-2.b_C": [Path("my data/gut.fa")]}
    assert list(read_samples(sheet).items()) == list(expected.items())


def test_the_sheet_of_the_repository_is_sound() -> None:
    assert read_samples(ROOT / "config/samples.tsv")


ROW = "sample\tpath\na\ta.fa\n"
MISTAKES = {
    "no header": ("a\ta.fa\n", "line 1: the columns 'sample' and 'path' are needed"),
    "commas": ("sample,path\na,a.fa\n", "line 1: the columns"),
    "a column too few": ("sample\na\n", "line 1: the columns"),
    "empty": ("", "line 1: the columns"),
    "only a header": ("sample\tpath\n", "no samples; add a line"),
    "a file twice": (
        f"{ROW}b\ta.fa\na\ta.fa\n",
        "line 4: sample 'a' has a.fa twice; remove one of them",
    ),
    "no path": (f"{ROW}b\t\n", "line 3: sample 'b' has no path"),
    "spaces for a path": (f"{ROW}b\t  \n", "line 3: sample 'b' has no path"),
    "no tab": (f"{ROW}b\n", "line 3: sample 'b' has no path"),
    "no name": (f"{ROW}\tb.fa\n", "line 3: sample name ''"),
    **{
        f"the name {name}": (f"{ROW}{name}\tb.fa\n", f"line 3: sample name {name!r}: use letters")
        for name in ("../x", "..", ".a", "a b", "a/b", "-a", "_a", "a;b", "{a}", "é", '"a"', "a*")
    },
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_sheet(tmp_path: Path, mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    (tmp_path / "samples.tsv").write_text(text, encoding="utf-8")
    assert sheet_error(tmp_path / "samples.tsv").startswith(expected)


def test_sheets_that_are_no_text(tmp_path: Path) -> None:
    sheet = tmp_path / "samples.tsv"
    for content in (ROW.encode("utf-16"), b"sample\tpath\n\xe9\ta.fa\n", b"\x1f\x8b\x08\x00"):
        sheet.write_bytes(content)
        assert sheet_error(sheet).startswith("not UTF-8 text")


def test_sheets_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in sheet_error(tmp_path / "absent.tsv")
    assert "Is a directory" in sheet_error(tmp_path)


def test_blank_lines_count(tmp_path: Path) -> None:
    (tmp_path / "samples.tsv").write_text("sample\tpath\n\n\na b\ta.fa\n")
    assert sheet_error(tmp_path / "samples.tsv").startswith("line 4: ")


def test_a_line_without_end(tmp_path: Path) -> None:
    (tmp_path / "samples.tsv").write_text(ROW + "A" * 200_000)
    assert "not a table" in sheet_error(tmp_path / "samples.tsv")


@pytest.mark.parametrize(("before", "line"), [(ROW, 3), ("", 1)])
def test_a_line_without_end_is_named(tmp_path: Path, before: str, line: int) -> None:
    (tmp_path / "samples.tsv").write_text(before + "A" * 200_000)
    assert sheet_error(tmp_path / "samples.tsv").startswith(f"line {line}: ")


def test_a_sample_whose_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    config = Config(samples=tmp_path / "samples.tsv", results=tmp_path)
    there, absent = tmp_path / "a.fa", tmp_path / "b.fa"
    samples = {"a": [there], "b": [there, absent]}
    with pytest.raises(VirnucError) as raised:
        check_inputs(config, samples)
    assert str(raised.value) == f"{config.samples}: sample b: {absent}: no such file"
    (tmp_path / "chunks/b").mkdir(parents=True)
    with pytest.raises(VirnucError):
        check_inputs(config, samples)
    (tmp_path / "chunks/b/manifest.json").touch()  # chunked already
    check_inputs(config, samples)


# --- samples of several files ------------------------------------------------------------------


@pytest.fixture
def lanes(tmp_path: Path) -> Path:
    """A folder of files, made in no order."""
    for name in ("lake_2", "lake_10", "lake_1", "gut_1", ".lake_3"):
        (tmp_path / f"{name}.fa.gz").touch()
    return tmp_path


def sheet_of(folder: Path, *rows: tuple[str, object]) -> Path:
    sheet = folder / "samples.tsv"
    sheet.write_text("sample\tpath\n" + "".join(f"{name}\t{path}\n" for name, path in rows))
    return sheet


def test_rows_and_patterns_add_files(lanes: Path) -> None:
    rows = (("b", "z.fq"), ("a", lanes / "lake_*.fa.gz"), ("b", lanes / "gut_?.fa*"), ("b", "a.fq"))
    found = read_samples(sheet_of(lanes, *rows))
    assert list(found) == ["b", "a"]
    assert found["a"] == [lanes / f"lake_{number}.fa.gz" for number in ("1", "10", "2")]
    assert found["b"] == [Path("z.fq"), lanes / "gut_1.fa.gz", Path("a.fq")]


def test_patterns_that_overlap(lanes: Path) -> None:
    rows = (("a", lanes / "lake_1*"), ("a", lanes / "lake_*"))
    expected = f"line 3: sample 'a' has {lanes}/lake_1.fa.gz twice"
    assert sheet_error(sheet_of(lanes, *rows)).startswith(expected)


def test_a_pattern_that_matches_nothing(lanes: Path) -> None:
    """Reading the sheet does not fail: workers may run where the data are not."""
    sheet = sheet_of(lanes, ("a", lanes / "sea_*.fa"))
    config, samples = Config(samples=sheet, results=lanes), read_samples(sheet)
    assert samples == {"a": [lanes / "sea_*.fa"]}
    with pytest.raises(VirnucError) as raised:
        check_inputs(config, samples)
    assert str(raised.value) == f"{sheet}: sample a: {lanes}/sea_*.fa: no file matches"


def test_a_file_whose_name_looks_like_a_pattern(lanes: Path) -> None:
    (lanes / "odd[1].fa").touch()
    (lanes / "odd1.fa").touch()
    assert read_samples(sheet_of(lanes, ("a", lanes / "odd[1].fa"))) == {"a": [lanes / "odd[1].fa"]}


# --- environments ------------------------------------------------------------------------------

CONDA_NAMES = {
    "torch": "pytorch",
    "snakemake": "snakemake-minimal",
    "matplotlib": "matplotlib-base",
}
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]


def test_the_conda_environment_has_the_same_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    found = [Requirement(line) for line in environment["dependencies"]]
    expected = {CONDA_NAMES.get(need.name, need.name): need.specifier for need in DIRECT}
    expected |= {"python": Requirement(f"python{PROJECT['requires-python']}").specifier}
    assert {need.name: need.specifier for need in found if need.name != "pip"} == expected
    assert len(found) == len(expected) + 1


def constraints() -> dict[str, str]:
    """Versions by name; every line of the file must be a pin."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            (pin,) = (need := Requirement(line)).specifier
            assert pin.operator == "=="
            pins[canonicalize_name(need.name)] = pin.version
    return pins


@pytest.mark.parametrize("need", DIRECT + DEV, ids=str)
def test_every_dependency_is_pinned_within_its_range(need: Requirement) -> None:
    assert need.specifier.contains(constraints()[canonicalize_name(need.name)])


def test_torch_is_the_version_that_was_agreed() -> None:
    assert constraints()["torch"] == "2.13.0"


def test_the_version_is_written_the_same_twice() -> None:
    assert PROJECT["version"] == virnuc_rules.__version__
