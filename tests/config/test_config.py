"""Settings and sample sheets: defaults written once, and mistakes named with file and line."""

import ast
import os
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from virnuc_rules.cli.main import command_options
from virnuc_rules.cli.settings import SECTIONS_OF
from virnuc_rules.config.document import json_schema, key_table, write_documents, yaml_text
from virnuc_rules.config.load import load_config, write_run_config
from virnuc_rules.config.model import KEYS, SECTIONS, Config, Embedding, check_config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import is_bundle, read_card

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# --- the config file ---------------------------------------------------------------------------


def test_what_is_written_from_the_model_is_up_to_date(tmp_path: Path) -> None:
    """`virnuc-rules config write` would change nothing."""
    (tmp_path / "README.md").write_text((ROOT / "config/README.md").read_text())
    assert {path.name for path in write_documents(tmp_path)} == {
        "README.md", "config.yaml", "schema.json"
    }  # fmt: skip
    for path in tmp_path.iterdir():
        assert path.read_text() == (ROOT / "config" / path.name).read_text()


def test_a_folder_without_a_place_for_the_table(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Configuration\n")
    with pytest.raises(VirnucError, match="no line '## Keys'"):
        write_documents(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_table_of_keys() -> None:
    rows = {row.split(" | ")[0]: row.split(" | ")[1:3] for row in key_table().splitlines()}
    assert rows["| `window`"] == ["`0`", "integer, from 0"]
    assert rows["| `bundle`"] == ["`demo/bundle`", "path"]
    assert rows["| `min_score`"] == ["`0.5`", "number, 0 to 1"]
    assert rows["| `lease_seconds`"] == ["`60.0`", "number, 0.5 to 86400"]
    assert rows["| `persistent_models`"] == ["`true`", "`true`, `false`"]
    assert rows["| `duplicate_ids`"] == ["`error`", "`error`, `keep`"]


def test_the_schema_knows_all_keys() -> None:
    schema = json_schema()
    assert tuple(schema["properties"]) == KEYS
    assert schema["additionalProperties"] is False
    assert schema["properties"]["precision"]["enum"] == ["auto", "fp32", "tf32", "fp16", "bf16"]


def test_the_config_file_holds_the_defaults() -> None:
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert tuple(settings) == KEYS
    assert check_config(settings) == check_config({}) == Config()


def test_the_config_of_the_demo_is_sound() -> None:
    config = check_config(yaml.safe_load((ROOT / "demo/config.yaml").read_text()))
    samples = read_samples(ROOT / config.inputs.samples)
    assert set(samples) == {"lake", "gut"}
    assert all((ROOT / path).is_file() for (path,) in samples.values())
    assert is_bundle(config.run.bundle)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_description_of_one_line(key: str) -> None:
    (kind,) = (kind for kind in SECTIONS.values() if key in kind.model_fields)
    description = " ".join((kind.model_fields[key].description or "").split())
    assert description
    assert f"# {description}\n{key}:" in yaml_text()


def test_a_key_belongs_to_one_section() -> None:
    assert len(KEYS) == sum(len(kind.model_fields) for kind in SECTIONS.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", "wide"),
        ("window", 2),
        ("window", 500.5),
        ("window", [500]),
        ("chunk_size", 0),
        ("genetic_code", 2),
        ("genetic_code", "standard"),
        ("min_score", 1.1),
        ("min_score", float("nan")),
        ("duplicate_ids", "rename"),
        ("persistent_models", "maybe"),
        ("workers", 0),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:0; rm -r /"),
        ("threads", 0),
        ("precision", "fp8"),
        ("batch_tokens", 63),
        ("lease_seconds", 0),
        ("lease_seconds", float("nan")),
        ("load_timeout", -1),
        ("stage_bundle", "scratch"),  # of the working folder, which nodes share
        ("stage_bundle", "${TMPDIR}"),
        ("stage_bundle", "/scratch\0"),
        ("load_timeout", float("inf")),
        ("lease_seconds", float("inf")),
        ("lease_seconds", 1e-9),
        ("load_timeout", 1e-9),
        ("load_timeout", 86_401),
        ("on_failed_chunks", "ignore"),
        ("samples", 5),
        ("samples", "~no-such-user/samples.tsv"),
        ("results", "out{1}"),
        ("bundle", "b{x}"),
        ("samples", "s{x}.tsv"),
        ("trained_bundle", "t{x}"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(key: str, value: object) -> None:
    with pytest.raises(VirnucError) as raised:
        check_config({"chunk_size": 10, key: value}, "mine.yaml")
    message = str(raised.value)
    assert message.startswith(f"mine.yaml: {key}: ")
    assert f"(found {value!r})" in message or str(value) in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("windw", "did you mean `window`?"),
        ("min_scores", "did you mean `min_score`?"),
        ("thread", "did you mean `threads`?"),
        ("zzz", "see config/README.md"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(key: str, hint: str) -> None:
    with pytest.raises(VirnucError) as raised:
        check_config({key: 1})
    assert str(raised.value) == f"config: {key}: no such key; {hint}"


def test_a_key_without_a_value_has_its_default() -> None:
    assert check_config(yaml.safe_load("bundle_definition:\nwindow:\nresults:\n")) == Config()


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices(device: str) -> None:
    assert check_config({"device": device}).compute.device == device


@pytest.mark.parametrize("key", ["samples", "results", "bundle", "trained_bundle"])
def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Config.of(**{key: "~/x"}).flat()[key] == Path("/home/somebody/x")


def test_the_shipped_bundle_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert Config().run.bundle == Path("demo/bundle")  # a folder of this name comes first
    monkeypatch.chdir(tmp_path)
    for config in (Config(), Config.of(bundle="demo/bundle")):
        assert read_card(config.run.bundle).name == "virnuc-demo"


# --- sections and where they are listed --------------------------------------------------------


def test_sections_and_flat_keys_are_the_same_settings() -> None:
    config = Config.of(min_score=0.9, results="out", precision="bf16")
    assert (config.calling.min_score, config.run.results) == (0.9, Path("out"))
    assert config.part(Embedding) == Embedding(precision="bf16")
    assert Config.of(**config.flat()) == config
    assert config.replace(min_score=0.5) == Config.of(results="out", precision="bf16")


def collections_of_names(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """The texts that stand together in a list, tuple, set, call or as the keys of a dict."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            parts = node.elts
        elif isinstance(node, ast.Call):
            parts = node.args
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key]
        else:
            continue
        yield node.lineno, {part.value for part in parts if isinstance(part, ast.Constant)}


def test_no_list_of_keys_stands_twice() -> None:
    """Which keys belong together is said by the sections, and nowhere else."""
    for path in (ROOT / "virnuc_rules").rglob("*.py"):
        for line, names in collections_of_names(ast.parse(path.read_text())):
            assert len(names & set(KEYS)) < 2, f"{path}:{line}: {names & set(KEYS)}"
    for path in [ROOT / "workflow/Snakefile", *(ROOT / "workflow/rules").iterdir()]:
        named = re.findall(r"\"(\w+)\"", path.read_text())
        assert set(named) & set(KEYS) <= {"samples", "calls"}, path  # also a figure


# --- what a command is given -------------------------------------------------------------------


@pytest.mark.parametrize("command", SECTIONS_OF)
def test_options_are_those_of_the_command_line(command: str) -> None:
    """What the workflow gives a command is what it takes: each key of its sections, once."""
    words = shlex.split(command_options(Config.of(chunk_size=7), command))
    names = [word.partition("=")[0].removeprefix("--").removeprefix("no-") for word in words]
    keys = [key for kind in SECTIONS_OF[command] for key in kind.model_fields]
    assert names == [key.replace("_", "-") for key in keys]
    assert len(set(names)) == len(names)


@given(st.text(st.characters(exclude_characters="\0{}", exclude_categories=["Cs"]), min_size=1))
def test_options_survive_the_shell(text: str) -> None:
    name = text.lstrip("~")
    config = Config.of(results=f"./{name}", bundle=f"$(touch x) `y` 'z' {name}")
    words = shlex.split(command_options(config, "list_models"))
    assert words == [
        f"--results={config.run.results}", f"--bundle={config.run.bundle}",
        "--on-failed-chunks=error", "--keep-embeddings",
    ]  # fmt: skip


def write_yaml(path: Path, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    return path


def test_where_settings_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is named; what the run wrote; config/config.yaml; the defaults; options win."""
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}) == (Config(), "defaults")
    write_yaml(tmp_path / "config/config.yaml", results="out", min_score=0.6)
    config, source = load_config(None, {"min_viral_fraction": 0.1})
    assert (config.calling.min_score, config.calling.min_viral_fraction) == (0.6, 0.1)
    assert source == "config/config.yaml"
    write_run_config(Config.of(results="out", min_score=0.7))
    for options in ({}, {"results": Path("out")}):
        config, source = load_config(None, options)
        assert (config.calling.min_score, source) == (0.7, "out/config.yaml")
    config, source = load_config(None, {}, next_run=True)
    assert (config.calling.min_score, source) == (0.6, "config/config.yaml")
    config, source = load_config(None, {"results": Path("out")}, next_run=True)
    assert (config.calling.min_score, source) == (0.7, "out/config.yaml")
    config, source = load_config(None, {"results": Path("elsewhere")})
    assert (config.calling.min_score, source) == (0.6, "config/config.yaml")
    mine = write_yaml(tmp_path / "mine.yaml", min_score=0.8)
    config, source = load_config(mine, {"min_score": 0.9})
    assert (config.calling.min_score, source) == (0.9, str(mine))


def test_the_settings_of_a_run_are_the_same_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    write_run_config(Config.of(samples="s.tsv", results="out", bundle="b", precision="bf16"))
    monkeypatch.chdir(tmp_path)
    config, _ = load_config(None, {"results": Path("project/out")})
    assert config.inputs.samples == tmp_path / "project/s.tsv"
    assert config.run.bundle == tmp_path / "project/b"
    assert config.run.results == Path("project/out")
    assert config.embedding.precision == "bf16"


def test_a_folder_that_is_named_needs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settings file that cannot be read is an error only where it would be used."""
    monkeypatch.chdir(tmp_path)
    write_run_config(Config.of(results="out", min_score=0.7))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("a: [")
    assert load_config(None, {"results": Path("out")})[1] == "out/config.yaml"
    with pytest.raises(VirnucError, match="not YAML"):
        load_config(None, {})
    for results in ("~nobody-of-this-name/x", "a{b}"):
        with pytest.raises(VirnucError, match="config: results: "):
            load_config(None, {"results": results})
    (tmp_path / "config/config.yaml").write_text("results: [a]")
    with pytest.raises(VirnucError, match=r"config/config\.yaml: results: "):
        load_config(None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list\n", "no settings in it"),
        ("a: [\n", "not YAML"),
        ("min_scor: 1\n", "min_scor: no such key; did you mean `min_score`?"),
        ("min_score: 2\n", "min_score: Input should be less than or equal to 1"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(VirnucError) as raised:
        load_config(tmp_path / "mine.yaml", {})
    assert str(raised.value).startswith(f"{tmp_path}/mine.yaml: {message}")
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(VirnucError, match="No such file"):
        load_config(tmp_path / "absent.yaml", {})


# --- paths of a run ----------------------------------------------------------------------------


def test_paths_of_a_run() -> None:
    run = RunFolder(Path("r"))
    assert run.chunks("a").manifest == Path("r/chunks/a/manifest.json")
    assert run.chunks("a").chunk(7) == Path("r/chunks/a/chunk_000007.parquet")
    assert run.log("chunk", "a.b") == Path("r/logs/chunk/a.b.log")
    assert run.benchmark("train") == Path("r/benchmarks/train.tsv")
    assert len(set(run.sample("a").files())) == len(run.sample("a").files()) == 16
    assert len(set(run.report.files())) == len(run.report.files()) == 11


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
        "sample \tpath  \t\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa\n",
        "Sample\tPATH\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa\n",
        "# my lakes\n\n#\tx\nsample\tpath\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa\n",
        "#sample\tpath\nlake\tlake.fa.gz\ngut-2.b_C\tmy data/gut.fa\n",
    ],
    ids=[
        "plain",
        "no last newline",
        "CRLF",
        "BOM",
        "blank lines",
        "more columns",
        "spaces",
        "blanks in the header",
        "capitals",
        "comments",
        "a header as a comment",
    ],
)
def test_sample_sheets(tmp_path: Path, text: str) -> None:
    sheet = tmp_path / "samples.tsv"
    sheet.write_bytes(text.encode())
    expected = {"lake": [Path("lake.fa.gz")], "gut-2.b_C": [Path("my data/gut.fa")]}
    assert list(read_samples(sheet).items()) == list(expected.items())


@pytest.mark.parametrize(
    "column", ["note", "comment", "date", "site", "sample_id", "file", "name", "host", "level"]
)
def test_other_columns_are_the_user_s(tmp_path: Path, column: str) -> None:
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\tpath\t{column}\na\ta.fa\tx\n")
    assert read_samples(sheet) == {"a": [Path("a.fa")]}


def test_an_empty_key_is_its_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("bundle_definition:\nwindow:\n")
    config, _ = load_config(path, {})
    assert config == Config()
    assert config.workflow.bundle_definition == ""


def test_the_sheet_of_the_repository_is_sound() -> None:
    assert read_samples(ROOT / "config/samples.tsv")


ROW = "sample\tpath\na\ta.fa\n"
MISTAKES = {
    "no header": ("a\ta.fa\n", "line 1: the columns 'sample' and 'path' are needed"),
    "commas": ("sample,path\na,a.fa\n", "line 1: the columns"),
    "a column too few": ("sample\na\n", "line 1: the columns"),
    "empty": ("", "line 1: the columns"),
    "only comments": ("# a\n# b\n", "line 2: the columns 'sample' and 'path' are needed"),
    "quotes": (
        '"sample"\t"path"\n"a"\t"a.fa"\n',
        "line 1: the columns 'sample' and 'path' are needed, tab-separated, without quotes "
        '(found "sample")',
    ),
    "a column twice": (
        "# x\nsample\tpath\tPath\na\ta.fa\tb.fa\n",
        "line 2: two columns are 'path'; leave one",
    ),
    **{
        f"the column {column}": (
            f"sample\tpath\t{column}\na\ta.fa\t\n",
            f"column {column.lower()!r} is not known; did you mean {meant!r}?",
        )
        for column, meant in {"lables": "labels", "Lables": "labels", "path2": "path"}.items()
    },
    "a file twice, once from the root": (
        f"{ROW}a\t{Path.cwd()}/a.fa\n",
        f"line 3: sample 'a' has {Path.cwd()}/a.fa twice; remove one of them",
    ),
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
        for name in (
            "a" * 101,
            "../x",
            "..",
            ".a",
            "a b",
            "a/b",
            "-a",
            "_a",
            "a;b",
            "{a}",
            "é",
            '"a"',
            "a*",
        )
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
    assert read_samples(sheet) == {"a": [lanes / "sea_*.fa"]}


def test_a_file_whose_name_looks_like_a_pattern(lanes: Path) -> None:
    (lanes / "odd[1].fa").touch()
    (lanes / "odd1.fa").touch()
    assert read_samples(sheet_of(lanes, ("a", lanes / "odd[1].fa"))) == {"a": [lanes / "odd[1].fa"]}


@pytest.mark.parametrize("name", sorted(RunFolder(Path()).own_names()))
def test_a_sample_may_not_be_in_the_place_of_what_a_run_writes(tmp_path: Path, name: str) -> None:
    error = sheet_error(sheet_of(tmp_path, (name, "a.fa")))
    assert error == f"line 2: sample name {name!r}: VirNuc has a file of this name"


def test_names_that_a_run_has() -> None:
    assert {"report.html", "chunks", "queue", "logs", "config.yaml"} <= RunFolder(
        Path()
    ).own_names()


# --- paths are data ----------------------------------------------------------------------------


def test_the_home_folder_in_a_sheet(lanes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(lanes))
    sheet = sheet_of(lanes, ("a", "~/gut_1.fa.gz"), ("b", "~/lake_1*"))
    assert list(read_samples(sheet).values()) == [
        [lanes / "gut_1.fa.gz"], [lanes / "lake_1.fa.gz", lanes / "lake_10.fa.gz"]
    ]  # fmt: skip
    assert "~nobody-of-this-name" in sheet_error(sheet_of(lanes, ("a", "~nobody-of-this-name/x")))


@pytest.mark.parametrize("name", ["{x}/a.fa", "a{sample}.fa", "a}.fa"])
def test_braces_are_refused(tmp_path: Path, name: str) -> None:
    """Snakemake would take them for wildcards, and read another file or none."""
    expected = f"line 2: {name}: Snakemake takes braces for wildcards; rename it"
    assert sheet_error(sheet_of(tmp_path, ("a", name))) == expected


def test_a_pattern_that_matches_braces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a{1}.fa").touch()
    assert "braces" in sheet_error(sheet_of(tmp_path, ("a", tmp_path / "a*.fa")))


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    for folder in ("run[1]", "run1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.fa").touch()
    sheet = sheet_of(tmp_path, ("a", tmp_path / "run[1]/*.fa"))
    assert read_samples(sheet) == {"a": [tmp_path / "run[1]/a.fa"]}


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.fa")).touch()
    error = sheet_error(sheet_of(tmp_path, ("a", tmp_path / "*.fa")))
    assert error.endswith("the name is not UTF-8; rename the file")


def test_a_dash_and_quotes_are_names_like_others(tmp_path: Path) -> None:
    names = ["-dash.fa", "it's.fa", 'a "b".fa', "a;b.fa", "$(x).fa"]
    sheet = sheet_of(tmp_path, *(("a", name) for name in names))
    assert read_samples(sheet) == {"a": [Path(name) for name in names]}


def test_files_are_compared_by_hash_and_not_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """27,000 files took minutes when each was compared with all before it."""
    compared = Counter[str]()
    equal = Path.__eq__

    def counting(self: Path, other: object) -> bool:
        compared["=="] += 1
        return equal(self, other)

    sheet = sheet_of(tmp_path, *(("a", f"{number}.fa") for number in range(2000)))
    monkeypatch.setattr("pathlib.PurePath.__eq__", counting)
    assert len(read_samples(sheet)["a"]) == 2000
    assert compared["=="] < 4000


# --- environments ------------------------------------------------------------------------------

CONDA_NAMES = {
    "torch": "pytorch",
    "snakemake": "snakemake-minimal",
    "matplotlib": "matplotlib-base",
}
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
DEV, REFERENCE = (
    [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    for extra in ("dev", "reference")
)


def test_the_conda_environment_has_the_same_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    found = [Requirement(line) for line in environment["dependencies"]]
    expected = {
        CONDA_NAMES.get(need.name, need.name): need.specifier for need in DIRECT + REFERENCE
    }
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


@pytest.mark.parametrize("need", DIRECT + REFERENCE + DEV, ids=str)
def test_every_dependency_is_pinned_within_its_range(need: Requirement) -> None:
    assert need.specifier.contains(constraints()[canonicalize_name(need.name)])


def test_torch_is_the_version_that_was_agreed() -> None:
    assert constraints()["torch"] == "2.13.0"
