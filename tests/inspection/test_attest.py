"""`models attest`: the whole way from servers on this machine, and what it must not let through."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chunk_folders import VANILLA
from harness import BUNDLE, DEMO, REPO, sha256
from published import REVISION, Server, hub_source, published, write_definition, write_fair_esm
from safetensors.torch import load_file, save_file

from virnuc_rules.bundles.definition import read_definition
from virnuc_rules.bundles.prepare import prepare_bundle
from virnuc_rules.inspection import attest as attesting
from virnuc_rules.inspection import references
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.models.card import read_card

CPU = torch.device("cpu")
OTHERS = ["BERT of transformers", "ESM-2 of transformers", "fair-esm"]
TINY = REPO / "tests/data/dnabert_s_tiny"
Attest = Callable[..., Any]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small networks in the formats of the published ones."""
    folder = tmp_path_factory.mktemp("published")
    return {**published(folder), "esm2": write_fair_esm(folder / "esm2_t4.pt")}


@pytest.fixture
def definition(sources: dict[str, Path], tmp_path: Path) -> Path:
    paths = {name: {"path": str(path)} for name, path in sources.items()}
    return write_definition(tmp_path / "mine.yaml", **paths)


@pytest.fixture
def attest(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attest:
    """The command in this process, with a few open frames: gives its report and its last line."""
    monkeypatch.setattr(attesting, "_SECONDS", 0)

    def run(definition: Path, *options: object, code: int = 0) -> tuple[Any, str]:
        words = ("--out", tmp_path / "out", "--frames", 12, "--threads", 1, *options)
        done = command("models", "attest", definition, *words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return yaml.safe_load(done.stdout), [*done.stderr.splitlines(), ""][-1 if code == 0 else -2]

    return run


def values(report: Any) -> dict[str, float]:
    return {name: row["value"] for name, row in report["greatest_differences_in_fp32"].items()}


# --- the whole way -----------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.close()


def test_from_servers_to_a_report(
    server: Server, sources: dict[str, Path], attest: Attest, tmp_path: Path
) -> None:
    server.add_hub("lab/DNABERT-S", sources["dnabert_s"])
    for name in ("esm2", "classifier"):
        server.files[f"/{sources[name].name}"] = sources[name].read_bytes()
    made = write_definition(
        tmp_path / "mine.yaml",
        dnabert_s={**hub_source("lab/DNABERT-S", sources["dnabert_s"]), "parameters": 133_584},
        esm2={"url": f"{server.url}/esm2_t4.pt", "sha256": sha256(sources["esm2"])},
        classifier={"url": f"{server.url}/500_model.pth", "sha256": None},
    )
    _, line = attest(made, code=1)
    assert "500_model.pth" in line and "--trust-unpinned" in line and server.requests == []
    report, _ = attest(made, "--trust-unpinned")
    assert list(values(report)) == OTHERS
    assert all(0 < value < 1e-5 for value in values(report).values())
    versions = report["versions"]
    assert {*versions} == {"python", "virnuc_rules", "torch", "transformers", "fair-esm"}
    assert versions["torch"] == torch.__version__
    card = read_card(tmp_path / "out")
    assert report["sources"]["dnabert_s"]["revision"] == REVISION
    assert report["sources"]["esm2"]["sha256"] == {"esm2_t4.pt": sha256(sources["esm2"])}
    assert report["sources"]["esm2"]["parameters"] == card.source["esm2"].parameters
    assert report["sha256_unknown_before"] == ["500_model.pth"]
    assert report["fingerprint_of_embeddings"] == card.fingerprint
    assert report["data"] == {"file": "gut.fa.gz", "sha256": sha256(DEMO["gut"])}
    assert report["open_frames"] == 12 and report["device"].startswith("cpu (")
    assert report["open_frames_a_second"]["fp32"] > 0
    before = len(server.requests)
    again, _ = attest(made, "--precision", "bf16")
    assert values(again) == values(report) and len(server.requests) == before
    assert list(again["open_frames_a_second"]) == ["fp32", "bf16"]


def test_fair_esm_is_left_out_for_a_folder_of_the_hub(attest: Attest, tmp_path: Path) -> None:
    paths = {name: {"path": str(path)} for name, path in published(tmp_path / "hub").items()}
    report, _ = attest(write_definition(tmp_path / "hub.yaml", **paths))
    assert list(values(report)) == OTHERS[:2]


# --- what must not pass ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "key", "names"),
    [
        ("dnabert_s.safetensors", "encoder.layer.1.mlp.wo.weight", OTHERS[:1]),
        ("esm2.safetensors", "encoder.inv_freq", OTHERS[1:]),
    ],
)
def test_other_numbers_than_those_of_others(
    definition: Path, attest: Attest, tmp_path: Path, file: str, key: str, names: list[str]
) -> None:
    """A bundle that was converted wrongly, and whose card is in order."""
    prepare_bundle(read_definition(definition), tmp_path / "out")
    weights = load_file(tmp_path / "out" / file)
    weights[key] *= 1.01
    save_file(weights, tmp_path / "out" / file)
    rewrite_card(tmp_path / "out")
    report, line = attest(definition, code=1)
    assert line == f"error: {definition}: above the limit: {', '.join(names)}"
    assert all((name in names) == (value > 1e-4) for name, value in values(report).items())


def test_a_bundle_of_other_files(definition: Path, attest: Attest, tmp_path: Path) -> None:
    attest(definition)
    fields = yaml.safe_load(definition.read_text())
    for name, change in (
        ("esm2", {"path": str(write_fair_esm(tmp_path / "esm2_t4.pt", seed=2))}),
        ("classifier", {"parameters": 3_745}),
    ):
        other = {**fields, name: fields[name] | change}
        _, line = attest(write_definition(tmp_path / "other.yaml", **other), code=1)
        assert f"out: its {name} is not that of mine; give a new folder with --out" in line
    with (tmp_path / "out/esm2.safetensors").open("r+b") as file:
        file.write(b"?")
    assert "esm2.safetensors: damaged" in attest(definition, code=1)[1]


@pytest.mark.parametrize("missing", ["fair-esm", "transformers"])
def test_without_the_extra_nothing_is_begun(
    definition: Path, attest: Attest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    right = references.version

    def version(name: str) -> str:
        return right("no-such-package" if name == missing else name)

    monkeypatch.setattr(references, "version", version)
    _, line = attest(definition, code=1)
    assert "is needed and not installed: pip install 'virnuc_rules[reference]'" in line
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there(definition: Path, attest: Attest, tmp_path: Path) -> None:
    for option in ("--data", "--golden"):
        _, line = attest(definition, option, tmp_path / "absent", code=1)
        assert f"{tmp_path / 'absent'}: no such path; correct --data" in line
    assert not (tmp_path / "out").exists()


# --- the code of others ------------------------------------------------------------------------


class Tokens:
    """Gives the ids of a sequence that is JSON of them."""

    def __init__(self, **_: object) -> None:
        pass

    def encode(self, sequence: str) -> list[int]:
        return json.loads(sequence)  # type: ignore[no-any-return]


@torch.inference_mode()
def test_bert_of_transformers_is_dnabert_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what DNABERT-S's own code computed."""
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast", Tokens)
    embed = references.open_transformers_dnabert_s(TINY, CPU)
    rows = json.loads((TINY / "input_ids.json").read_text())
    found = torch.stack([embed(json.dumps(row)) for row in rows])
    expected = load_file(TINY / "expected.safetensors")["mean_embedding"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# --- what VirNucPro recorded -------------------------------------------------------------------


@pytest.fixture
def golden(definition: Path, tmp_path: Path) -> Path:
    """Files of a real run's open frames as VirNucPro writes them, numbers by others' code."""
    prepare_bundle(read_definition(definition), tmp_path / "out")
    folder = tmp_path / "golden/test_with_orfs_merged"
    folder.mkdir(parents=True)
    records = {}
    for name in ("nucleotide.fa", "protein.faa"):
        path = VANILLA / f"test_with_orfs_identified_{name}"
        shutil.copy(path, folder.parent)
        records[name] = path.read_text().split()
    ids = [line[1:] for line in records["nucleotide.fa"][::2]]
    sources = read_definition(definition).sources
    dna = references.open_transformers_dnabert_s(sources["dnabert_s"].path, CPU)
    protein = references.open_fair_esm(sources["esm2"].path, CPU)
    with torch.inference_mode():
        one = torch.stack([dna(sequence) for sequence in records["nucleotide.fa"][1::2]])
        two = torch.stack([protein(sequence) for sequence in records["protein.faa"][1::2]])
    labelled = zip(ids, one.tolist(), strict=True)
    rows = [{"label": name, "mean_representation": row} for name, row in labelled]
    torch.save({"nucleotide": ids, "data": rows}, folder / "output_1_DNABERT_S.pt")
    torch.save({"proteins": ids[::-1], "data": [*two.flip(0)]}, folder / "output_1_ESM.pt")
    torch.save({"ids": ids, "data": torch.cat([one, two], 1)}, folder / "output_1_merged.pt")
    scores = Bundle(tmp_path / "out").open_classifier().scores(one, two)
    lines, windows = ["Sequence_ID\tPrediction\tscore1\tscore2"], dict[str, torch.Tensor]()
    for name, pair in zip(ids, scores, strict=True):
        label = "virus" if pair[1] >= pair[0] else "others"
        lines.append(f"{name}\t{label}\t{float(pair[0]):.8g}\t{float(pair[1]):.8g}")
        windows[name[:-2]] = torch.maximum(pair, windows.get(name[:-2], pair))
    (folder / "prediction_results.txt").write_text("\n".join(lines) + "\n")
    lines = [f"{name}\t{bool(best[1] >= best[0])}" for name, best in windows.items()]
    text = "\n".join(["Modified_ID\tIs_Virus", *lines, ""])
    (folder / "prediction_results_highestscore.csv").write_text(text)
    return folder.parent


RECORDED = {
    "*DNABERT_S.pt": 4, "*ESM.pt": 4, "*merged.pt": 4,
    "prediction_results.txt": 4, "prediction_results_highestscore.csv": 2,
}  # fmt: skip


def test_recorded_results(definition: Path, golden: Path, attest: Attest) -> None:
    report, _ = attest(definition, "--golden", golden)
    found = values(report)
    assert list(found) == OTHERS + [f"VirNucPro's {k} ({n} rows)" for k, n in RECORDED.items()]
    assert all(value < 1e-5 for value in found.values())
    for path in golden.rglob("output_1_*"):
        path.unlink()
    assert len(values(attest(definition, "--golden", golden)[0])) == len(OTHERS) + 2


def test_other_recorded_results(definition: Path, golden: Path, attest: Attest) -> None:
    for path in golden.rglob("*.pt"):
        content = torch.load(path)
        row = content["data"][1]
        if isinstance(row, dict):
            row["mean_representation"][3] += 0.02
        else:
            row[3] = torch.nan if path.name.endswith("ESM.pt") else row[3] + 0.02
        torch.save(content, path)
    (calls,) = golden.rglob("*highestscore.csv")
    text = calls.read_text()
    calls.write_text(text.replace("True", "?").replace("False", "True").replace("?", "False"))
    (scores,) = golden.rglob("prediction_results.txt")
    head, first, *lines = scores.read_text().splitlines()
    name, label, one, two = first.split("\t")
    first = f"{name}\t{label}\t{float(one) - 0.02}\t{float(two) + 0.02}"
    scores.write_text("\n".join([head, first, *lines]) + "\n")
    report, line = attest(definition, "--golden", golden, code=1)
    wrong = ", ".join(list(values(report))[len(OTHERS) :])  # the report is printed all the same
    assert wrong.count("VirNucPro's") == len(RECORDED)
    assert line == f"error: {definition}: above the limit: {wrong}"


def test_what_is_not_virnucpros(
    definition: Path, golden: Path, attest: Attest, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: lacks *nucleotide.fa" in attest(definition, "--golden", empty, code=1)[1]
    (scores,) = golden.rglob("prediction_results.txt")
    right = scores.read_bytes()
    for wrong in (b"", b"a\tb\n1\t2\n", b"\xff\xfe", right.replace(b"0.", b"x.")):
        scores.write_bytes(wrong)
        line = attest(definition, "--golden", golden, code=1)[1]
        assert f"{scores}: not a file of VirNucPro (" in line
    scores.write_bytes(right)
    (path,) = golden.rglob("*ESM.pt")
    for content in ({"proteins": ["a"]}, [1], {"proteins": ["a"], "data": []}):
        torch.save(content, path)
        line = attest(definition, "--golden", golden, code=1)[1]
        assert f"{path}: not a file of VirNucPro (" in line
    canary = tmp_path / "canary"
    torch.save({"proteins": [Canary(canary)], "data": []}, path)
    assert f"{path}: refused" in attest(definition, "--golden", golden, code=1)[1]
    assert not canary.exists()


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_recorded_with_other_networks(definition: Path, golden: Path, attest: Attest) -> None:
    (path,) = golden.rglob("*ESM.pt")
    content = torch.load(path)
    torch.save({**content, "data": [row[:-1] for row in content["data"]]}, path)
    line = attest(definition, "--golden", golden, code=1)[1]
    assert "VirNucPro's *ESM.pt (4 rows): [4, 63] values, not [4, 64]" in line


def test_the_bundle_of_the_tests_is_not_touched() -> None:
    assert not (BUNDLE / "verified.json").exists()
