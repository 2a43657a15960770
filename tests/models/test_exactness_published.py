"""What was published: the real tokenizer, a real run of VirNucPro, a pickled classifier."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from virnuc_rules.bundles.checkpoints import read_classifier
from virnuc_rules.embedding.embed import Networks
from virnuc_rules.models.card import ClassifierShape
from virnuc_rules.models.classifier import MLPClassifier, open_network
from virnuc_rules.models.dnabert import open_tokenizer

SHARED = Path(__file__).parents[3] / "shared"
TOKENIZER = SHARED / "data/tokenizer/tokenizer.json"
RUN = SHARED / "golden/vanilla_real"
SHAPE = ClassifierShape(features=768 + 2560, hidden=512)


# --- the tokenizer of DNABERT-S ----------------------------------------------------------------


def dna(length: int) -> str:
    generator = torch.Generator().manual_seed(length)
    return "".join("ACGT"[base] for base in torch.randint(4, (length,), generator=generator))


SEQUENCES = {f"{length} bases": dna(length) for length in (20, 300, 500, 3000, 15_000)} | {
    "lower case": dna(500).lower(),
    "with N": dna(100) + "N" * 9 + dna(200),
    "other codes": dna(50) + "RYKM" + dna(50),
}


@pytest.fixture
def tokenizer() -> Tokenizer:
    if not TOKENIZER.exists():
        pytest.skip(f"no {TOKENIZER}: DNABERT-S's tokenizer is not ours to ship")
    assert hashlib.sha256(TOKENIZER.read_bytes()).hexdigest().startswith("667f5a0e6e9630f7")
    return open_tokenizer(TOKENIZER)


def test_special_tokens_of_the_real_tokenizer(tokenizer: Tokenizer) -> None:
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert [tokenizer.token_to_id(name) for name in names] == [0, 1, 2, 3, 4]
    assert tokenizer.get_vocab_size() == 4096
    assert Networks(tokenizer, None, None, torch.device("cpu")).pad == 3


@pytest.mark.parametrize("name", SEQUENCES)
def test_ids_of_the_real_tokenizer(tokenizer: Tokenizer, name: str) -> None:
    """Neither padded nor cut to the 2,000 tokens that its file asks for."""
    reference = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER))
    expected = reference(SEQUENCES[name], padding=False, truncation=False)["input_ids"]
    (encoding,) = tokenizer.encode_batch_fast([SEQUENCES[name]])
    assert encoding.ids == expected
    assert (encoding.ids[0], encoding.ids[-1]) == (1, 2)
    assert (len(encoding.ids) > 2000) == (name == "15000 bases")


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
    ours = open_network(shape, tmp_path / "classifier.safetensors")
    features = torch.randn(40, 3328, generator=torch.Generator().manual_seed(4))
    logits = upstream(features)
    assert torch.equal(ours(features), logits)
    scores = ours.scores(*features.split([768, 2560], dim=1))
    assert torch.equal(scores, torch.softmax(logits, dim=1))


# --- a real run --------------------------------------------------------------------------------


def test_features_are_merged_as_in_a_real_run() -> None:
    if not RUN.exists():
        pytest.skip(f"no {RUN}: the embeddings of a real run are not shipped")
    names = ("DNABERT_S", "ESM", "merged")
    dnabert_s, esm2, merged = (
        torch.load(RUN / f"output_1_{name}.pt", weights_only=True) for name in names
    )
    by_id = dict(zip(esm2["proteins"], esm2["data"], strict=True))  # in another order
    assert merged["ids"] == dnabert_s["nucleotide"]
    assert merged["ids"] != esm2["proteins"]
    nucleotide = torch.tensor([row["mean_representation"] for row in dnabert_s["data"]])
    protein = torch.stack([by_id[name] for name in merged["ids"]])

    seen: list[Tensor] = []
    classifier = MLPClassifier(SHAPE).eval()
    classifier.hidden_layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    classifier.scores(nucleotide, protein)
    assert torch.equal(seen[0], merged["data"])
