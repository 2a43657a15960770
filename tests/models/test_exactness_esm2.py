"""ESM-2 against fair-esm, its authors' own code: same file, same ids, same representations."""

import shutil
import string
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from esm.pretrained import load_model_and_alphabet_core, load_model_and_alphabet_local
from harness import BUNDLE
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from virnuc_rules.bundles.checkpoints import read_esm2
from virnuc_rules.chunking.format import CHUNK_SCHEMA, Chunk
from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.errors import ChunkError
from virnuc_rules.models import esm2
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import Esm2Config
from virnuc_rules.models.weights import load_network

CPU = torch.device("cpu")
HEADS = 20
SIZES = {"8M": (6, 320), "35M": (12, 480)}  # layers and width of two released models
LENGTHS = {"8M": [1, 2, 3, 17, 100, 166, 500, 1021, 1022, 1024], "35M": [1, 17, 166, 500]}
SMALL = EsmConfig(
    vocab_size=33, pad_token_id=1, mask_token_id=32, token_dropout=True, hidden_size=64,
    num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, initializer_range=0.3,
    position_embedding_type="rotary", layer_norm_eps=1e-5, emb_layer_norm_before=False,
)  # fmt: skip
RESIDUES = "LAGVSERTIDPKQNFYMHWC"
UNUSUAL = "XBUZO"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)  # several wait for each other on a busy machine


def protein(length: int) -> str:
    """Residues without a pattern; about every twentieth is an unusual one."""
    generator = torch.Generator().manual_seed(length)
    usual = torch.randint(len(RESIDUES), (length,), generator=generator).tolist()
    other = torch.randint(20 * len(UNUSUAL), (length,), generator=generator).tolist()
    return "".join(
        UNUSUAL[odd] if odd < len(UNUSUAL) else RESIDUES[residue]
        for residue, odd in zip(usual, other, strict=True)
    )


# --- checkpoints -------------------------------------------------------------------------------


def random_esm2(layers: int, width: int) -> ESM2:
    """fair-esm's network, with weights that all matter: no norm of ones, no bias of zeros."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(layers)
        network = ESM2(layers, width, HEADS)
        for weight in network.parameters():
            weight += (0.3 if weight.ndim == 1 else 0.05) * torch.randn_like(weight)
        network.embed_tokens.weight *= 0.1  # as small as this, the eps of the norms counts
    return network.eval()


def save(network: ESM2, path: Path) -> None:
    """Write a checkpoint and its contact regression in the layout of the released ones."""
    model, regression = {}, {}
    for key, tensor in network.state_dict().items():
        if key.startswith("contact_head."):
            regression[key] = tensor
        elif key.startswith("lm_head."):
            model[f"encoder.{key}"] = tensor
        else:
            model[f"encoder.sentence_encoder.{key}"] = tensor
    cfg = Namespace(
        encoder_layers=network.num_layers,
        encoder_embed_dim=network.embed_dim,
        encoder_attention_heads=network.attention_heads,
        token_dropout=True,
    )
    torch.save({"cfg": {"model": cfg}, "model": model}, path)
    torch.save({"model": regression}, path.with_name(f"{path.stem}-contact-regression.pt"))


def open_fair_esm(path: Path) -> ESM2:
    """Open a checkpoint with the loader that VirNucPro calls."""
    with torch.serialization.safe_globals([Namespace]):
        network, _ = load_model_and_alphabet_local(path)
    return network.eval()


def open_virnuc(path: Path, folder: Path) -> esm2.Esm2:
    """Open a checkpoint as `models prepare` and a worker do, one after the other."""
    shape, tensors = read_esm2(path)
    weights = folder / "esm2.safetensors"
    save_file(tensors, weights)
    return load_network(esm2.Esm2, shape, weights, CPU, torch.float32)


@dataclass(frozen=True)
class Published:
    """A checkpoint, opened by fair-esm and by us."""

    size: str
    path: Path
    upstream: ESM2
    virnuc: esm2.Esm2


@pytest.fixture(scope="module", params=SIZES)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    layers, width = SIZES[request.param]
    folder = tmp_path_factory.mktemp("fair_esm")
    path = folder / f"esm2_t{layers}_{request.param}_UR50D.pt"
    save(random_esm2(layers, width), path)
    return Published(request.param, path, open_fair_esm(path), open_virnuc(path, folder))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_layers_and_width_are_the_files(published: Published) -> None:
    layers, width = SIZES[published.size]
    shape, _ = read_esm2(published.path)
    assert shape == Esm2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=4 * width,
    )
    assert states_of(published.virnuc, ["MKL"])[0].shape == (5, width)


def test_the_contact_regression_may_be_absent(published: Published, tmp_path: Path) -> None:
    alone = Path(shutil.copy(published.path, tmp_path))
    content = torch.load(published.path, weights_only=False)
    with pytest.warns(UserWarning, match="Regression weights not found"):
        upstream, _ = load_model_and_alphabet_core(alone.stem, content)
    assert torch.equal(upstream.embed_tokens.weight, published.upstream.embed_tokens.weight)
    assert same(read_esm2(alone)[1], read_esm2(published.path)[1])


def test_settings_in_args_and_everything_in_one_file(published: Published, tmp_path: Path) -> None:
    """As fair-esm's files before ESM-2 are, and with the contact head among the weights."""
    layers, width = SIZES[published.size]
    args = Namespace(layers=layers, embed_dim=width, attention_heads=HEADS, arch="esm2")
    path = tmp_path / "esm2.pt"
    torch.save({"args": args, "model": published.upstream.state_dict()}, path)
    shape, tensors = read_esm2(path)
    expected_shape, expected = read_esm2(published.path)
    assert shape == expected_shape
    assert same(tensors, expected)


# --- token ids ---------------------------------------------------------------------------------


def ids_of_fair_esm(proteins: list[str]) -> Tensor:
    """Token ids [B, T] as VirNucPro makes them, padding included."""
    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter(truncation_seq_length=1024)
    _, _, ids = convert([("", protein) for protein in proteins])
    return ids


@pytest.mark.parametrize("length", [1, 2, 3, 17, 1021, 1022, 1023, 1024, 1025, 3000])
def test_ids(length: int) -> None:
    assert esm2.tokenize(protein(length)) == ids_of_fair_esm([protein(length)])[0].tolist()


@pytest.mark.parametrize("letter", string.ascii_uppercase)
def test_each_letter_is_known_or_refused_as_by_fair_esm(letter: str) -> None:
    try:
        expected = ids_of_fair_esm([f"M{letter}K"])[0].tolist()
    except KeyError:
        with pytest.raises(ChunkError, match=f"'{letter}' is not an amino acid"):
            esm2.tokenize(f"M{letter}K")
    else:
        assert esm2.tokenize(f"M{letter}K") == expected


# --- representations ---------------------------------------------------------------------------


@torch.inference_mode()
def states_of_fair_esm(network: ESM2, proteins: list[str]) -> list[Tensor]:
    """The last layer's representations [T, width] of each protein, all in one batch."""
    ids, last = ids_of_fair_esm(proteins), network.num_layers
    states = network(ids, repr_layers=[last])["representations"][last]
    return [row[there] for row, there in zip(states, ids != esm2.PAD, strict=True)]


@torch.inference_mode()
def states_of(network: nn.Module, proteins: list[str]) -> list[Tensor]:
    """The same by our network."""
    rows = [torch.tensor(esm2.tokenize(protein)) for protein in proteins]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=esm2.PAD)
    states = network(ids, ids != esm2.PAD)
    return [found[: len(row)] for found, row in zip(states, rows, strict=True)]


def assert_close(virnuc: list[Tensor], upstream: list[Tensor]) -> None:
    for found, expected in zip(virnuc, upstream, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_protein_alone(published: Published) -> None:
    for length in LENGTHS[published.size]:
        proteins = [protein(length)]
        virnuc = states_of(published.virnuc, proteins)
        assert_close(virnuc, states_of_fair_esm(published.upstream, proteins))


@pytest.mark.parametrize("lengths", [[166, 1, 17, 100, 2, 3], [17, 500]], ids=str)
def test_proteins_in_a_padded_batch(published: Published, lengths: list[int]) -> None:
    proteins = [protein(length) for length in lengths]
    virnuc = states_of(published.virnuc, proteins)
    assert_close(virnuc, states_of_fair_esm(published.upstream, proteins))


def test_embeddings_are_the_means_that_virnucpro_takes(published: Published) -> None:
    """From residues to rows of a result: tokens, batch plan, truncation, mean over residues."""
    proteins = [protein(length) for length in (17, 1, 166, 1025)]
    bundle = Bundle(BUNDLE)
    networks = Networks(
        bundle.open_tokenizer(), bundle.open_dnabert_s(CPU, torch.float32), published.virnuc, CPU
    )
    names = [str(len(residues)) for residues in proteins]
    chunk = Chunk(names, ["ACGT"] * len(proteins), proteins, CHUNK_SCHEMA.empty_table())
    found = embed_chunk(chunk, networks, Embedding(precision="fp32", batch_tokens=1100)).esm2
    for residues, embedding in zip(proteins, found, strict=True):
        (states,) = states_of_fair_esm(published.upstream, [residues])
        mean = states[1 : min(len(residues), 1024) + 1].mean(dim=0)
        torch.testing.assert_close(embedding, mean, rtol=0, atol=1e-4)


# --- rotary frequencies ------------------------------------------------------------------------
# ESM-2 was trained with frequencies rounded to float16, and its files hold those: they count.


def test_rotary_frequencies_that_a_file_lacks_are_computed(
    published: Published, tmp_path: Path
) -> None:
    content = torch.load(published.path, weights_only=False)
    stored = [key for key in content["model"] if key.endswith("inv_freq")]
    assert len(stored) == SIZES[published.size][0]
    for key in stored:
        del content["model"][key]
    torch.save(content, tmp_path / "esm2.pt")
    torch.testing.assert_close(read_esm2(tmp_path / "esm2.pt")[1], read_esm2(published.path)[1])


def test_the_rotary_frequencies_of_a_fair_esm_file(tmp_path: Path) -> None:
    """The whole file is float16 here, as of the larger models; fair-esm computes in float32."""
    path = tmp_path / "esm2_t6_8M_UR50D.pt"
    save(random_esm2(*SIZES["8M"]).half(), path)
    upstream, virnuc = open_fair_esm(path), open_virnuc(path, tmp_path)
    assert upstream.embed_tokens.weight.dtype == torch.float32
    proteins = [protein(500)]
    assert_close(states_of(virnuc, proteins), states_of_fair_esm(upstream, proteins))


@pytest.mark.parametrize("layout", ["one for all layers", "one a layer"])
@torch.inference_mode()
def test_the_rotary_frequencies_of_a_hugging_face_folder(tmp_path: Path, layout: str) -> None:
    """transformers 5 writes them once; facebook's folders are older and hold them in each layer."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        upstream = EsmModel(SMALL, add_pooling_layer=False).eval()
    upstream.rotary_embeddings.inv_freq.copy_(upstream.rotary_embeddings.inv_freq.half())
    upstream.save_pretrained(tmp_path)
    if layout == "one a layer":
        tensors = load_file(tmp_path / "model.safetensors")
        (name,) = (key for key in tensors if key.endswith("inv_freq"))
        rounded = tensors.pop(name)
        for layer in range(SMALL.num_hidden_layers):
            name = f"encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
            tensors[name] = rounded.clone()
        save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.tensor([esm2.tokenize(protein(500))])
    expected = upstream(ids).last_hidden_state[0]
    assert_close(states_of(open_virnuc(tmp_path, tmp_path), [protein(500)]), [expected])
