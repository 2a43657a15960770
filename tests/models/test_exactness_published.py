"""What was published: a tokenizer as DNABERT-S's, a real run of VirNucPro, a pickled classifier."""

import json
from pathlib import Path

import pytest
import torch
from chunk_folders import VANILLA, write_fasta
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from untrained import train_tokenizer

from virnuc_rules.bundles.checkpoints import read_classifier
from virnuc_rules.embedding.embed import Networks
from virnuc_rules.models.card import ClassifierShape
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import open_tokenizer
from virnuc_rules.models.weights import load_network

SHAPE = ClassifierShape(features=768 + 2560, hidden=512)


# --- a tokenizer as DNABERT-S has one ----------------------------------------------------------


def dna(length: int) -> str:
    generator = torch.Generator().manual_seed(length)
    return "".join("ACGT"[base] for base in torch.randint(4, (length,), generator=generator))


SEQUENCES = {f"{length} bases": dna(length) for length in (20, 300, 500, 3000, 15_000)} | {
    "lower case": dna(500).lower(),
    "with N": dna(100) + "N" * 9 + dna(200),
    "other codes": dna(50) + "RYKM" + dna(50),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file laid out as that of DNABERT-S: it pads and cuts to 2,000, N is no letter of it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    layout = json.loads(train_tokenizer([write_fasta(folder / "a.fa", {"a": dna(10**5)})]).to_str())
    layout["truncation"] = {
        "direction": "Right", "max_length": 2000, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    layout["padding"] = {
        "strategy": {"Fixed": 2000}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    # As older versions of the library wrote it.
    layout["model"]["merges"] = [" ".join(pair) for pair in layout["model"]["merges"]]
    del layout["model"]["ignore_merges"]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(layout))
    return path


def test_special_tokens(published: Path) -> None:
    tokenizer = open_tokenizer(published)
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert [tokenizer.token_to_id(name) for name in names] == [0, 1, 2, 3, 4]
    assert Networks(tokenizer, None, None, torch.device("cpu")).pad == 3


@pytest.mark.parametrize("name", SEQUENCES)
def test_ids_are_those_of_transformers(published: Path, name: str) -> None:
    """Neither padded nor cut to the 2,000 tokens that the file asks for."""
    reference = PreTrainedTokenizerFast(tokenizer_file=str(published))
    assert len(Tokenizer.from_file(str(published)).encode(SEQUENCES[name]).ids) == 2000
    expected = reference(SEQUENCES[name], padding=False, truncation=False)["input_ids"]
    (encoding,) = open_tokenizer(published).encode_batch_fast([SEQUENCES[name]])
    assert encoding.ids == expected
    assert (encoding.ids[0], encoding.ids[-1]) == (1, 2)
    assert (len(encoding.ids) > 2000) == (name == "15000 bases")
    assert (0 in encoding.ids) == (name in ("lower case", "with N", "other codes"))


# --- the classifier ----------------------------------------------------------------------------


class Upstream(nn.Module):
    """VirNucPro's module, which its `.pth` files hold as `__main__.MLPClassifier`."""

    __module__, __qualname__ = "__main__", "MLPClassifier"

    def __init__(self) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(3328, 512)
        self.bn1 = nn.BatchNorm1d(512)
        self.dropout = nn.Dropout(0.5)
        self.output_layer = nn.Linear(512, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.hidden_layer(x)))
        return self.output_layer(self.dropout(x))


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """A classifier of upstream's shape, trained for a moment; it is saved as if by a script."""
    monkeypatch.setattr("__main__.MLPClassifier", Upstream, raising=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Upstream()
        nn.init.normal_(network.bn1.weight)
        nn.init.normal_(network.bn1.bias)
        for _ in range(20):  # running statistics that differ from their start
            network(3 * torch.randn(50, 3328) + 1)
    return network.eval()


@torch.inference_mode()
def test_a_pickled_classifier_gives_the_same_scores(tmp_path: Path, upstream: Upstream) -> None:
    torch.save(upstream, tmp_path / "500_model.pth")
    shape, tensors = read_classifier(tmp_path / "500_model.pth")
    assert shape == SHAPE
    save_file(tensors, tmp_path / "classifier.safetensors")
    virnuc = load_network(
        MLPClassifier, shape, tmp_path / "classifier.safetensors", "cpu", torch.float32
    )
    features = torch.randn(40, 3328, generator=torch.Generator().manual_seed(4))
    logits = upstream(features)
    assert torch.equal(virnuc(features), logits)
    scores = virnuc.scores(*features.split([768, 2560], dim=1))
    assert torch.equal(scores, torch.softmax(logits, dim=1))


# --- a real run --------------------------------------------------------------------------------


def test_features_are_merged_as_in_a_real_run() -> None:
    with safe_open(VANILLA / "embeddings.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids = {name: json.loads(file.metadata()[name]) for name in tensors}
    assert ids["merged"] == ids["dnabert_s"] != ids["esm2"]  # in another order
    by_id = dict(zip(ids["esm2"], tensors["esm2"], strict=True))
    protein = torch.stack([by_id[name] for name in ids["merged"]])

    seen: list[Tensor] = []
    classifier = MLPClassifier(SHAPE).eval()
    classifier.hidden_layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    classifier.scores(tensors["dnabert_s"], protein)
    assert torch.equal(seen[0], tensors["merged"])
