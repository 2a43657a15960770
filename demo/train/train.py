"""Train the demo bundle's networks on the sheet that `data.py` writes.

    python demo/train/train.py --data DIR/training.tsv --out BUNDLE_DIR

The bundle has no classifier: `virnuc-rules train` makes it (`build.sh` runs all steps). Everything
was chosen on the validation part; the test part is not read here.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from frames import Frames, find_frames, read_part, scores_of_windows, summary
from networks import (
    DICODONS,
    DNABERT_S,
    ESM2,
    WORD,
    TrainedDnabert,
    TrainedEsm2,
    build_tokenizer,
    dicodon_features,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from virnuc_rules.models import card
from virnuc_rules.models.bundle import write_card
from virnuc_rules.models.device import reuse_memory

SEED, THREADS = 1, 2
CUTS = 8  # sets of windows with different offsets; epochs use them in turn
EPOCHS = {"dnabert": 16, "esm2": 8}
BATCH = {"dnabert": 512, "esm2": 1024}  # frames a step
RATE = {"dnabert": 2e-3, "esm2": 4e-3}  # of AdamW at its highest
DROPPED = {"dnabert": 0.3, "esm2": 0.1}  # fraction of the tokens that are dropped
POSITIONS, POSITIONS_MEASURED = 8, 24  # of a frame at which DNABERT's layer is computed
WARM_UP = 200  # steps
DECAY, OWN_DECAY = 0.05, 1.0  # of weights; of the part of a token that is not its features'
MAX_TOKENS = {"dnabert": 86, "esm2": 168}  # a frame with ambiguous bases may have more
DESCRIPTION = "DEMO MODEL. Networks of the demo bundle (demo/train), without a classifier."
WINDOW = 500
BITS = 6  # of the fraction of a parameter that are kept; float16 has 10
Data = tuple[Tensor, Tensor]  # tokens [R, T], labels [R]


def select(frames: Frames, kind: str) -> Data:
    """Return the tokens of one network, at most MAX_TOKENS of a frame, and the labels."""
    tokens = frames.dna if kind == "dnabert" else frames.protein
    cut = torch.from_numpy(tokens[:, : MAX_TOKENS[kind]].astype(np.int16))
    return cut, torch.from_numpy(frames.label[frames.window])


def balanced(label: Tensor) -> Tensor:
    """Return rows in random order: all of the rarer label, and as many of the other, drawn anew."""
    sides = [
        rows[torch.randperm(len(rows))] for rows in (torch.where(label == n)[0] for n in (0, 1))
    ]
    rows = torch.cat([side[: min(map(len, sides))] for side in sides])
    return rows[torch.randperm(len(rows))]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with the weight decay of each kind of parameter."""
    groups: dict[float, list[Tensor]] = {DECAY: [], OWN_DECAY: [], 0.0: []}
    for parameter in model.parameters():
        own = isinstance(model, TrainedDnabert) and parameter is model.own
        groups[0.0 if parameter.ndim < 2 else OWN_DECAY if own else DECAY].append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for decay, params in groups.items() if params],
        betas=(0.9, 0.98),
    )


def fit(model: nn.Module, kind: str, cuts: list[Frames], validation: Frames) -> None:
    """Train a network and its head: a warm-up to the rate, then half a cosine."""
    begin, optimizer, batch = time.monotonic(), optimizer_of(model), BATCH[kind]
    steps = EPOCHS[kind] * min(len(balanced(select(cut, kind)[1])) // batch for cut in cuts)
    step, total = 0, 0.0
    for epoch in range(EPOCHS[kind] + 1):
        tokens, label = select(cuts[epoch % len(cuts)], kind)
        order = balanced(label)
        for rows in order[: len(order) // batch * batch].split(batch)[: steps - step]:
            warm, half = min(1, (step + 1) / WARM_UP), 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = RATE[kind] * warm * max(0.01, half)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(tokens[rows].long(), POSITIONS, DROPPED[kind])
            loss = F.cross_entropy(logits.float(), label[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, total = step + 1, total + loss.item()
        if (epoch + 1) % 4 == 0 or step == steps:
            auroc = " ".join(f"{k} {v:.4f}" for k, v in measure(model, kind, validation).items())
            seconds = time.monotonic() - begin
            print(f"{kind}, step {step} of {steps}, {seconds:.0f} s: AUROC {auroc}", flush=True)
        if step == steps:
            break


@torch.no_grad()
def measure(model: nn.Module, kind: str, frames: Frames) -> dict[str, float]:
    """Return AUROCs of windows by one network and its head."""
    model.eval()
    tokens, _ = select(frames, kind)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [model(rows.long(), POSITIONS_MEASURED, 0.0).float() for rows in tokens.split(1024)]
    model.train()
    log_scores = torch.cat(parts).log_softmax(dim=1).numpy()
    score = scores_of_windows(log_scores, frames.window, len(frames.label))
    return summary(score, frames.label, frames.source)


def feature_scale(frames: Frames) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over frames of the dicodon features; [720] each."""
    dna, _ = select(frames, "dnabert")
    table = torch.zeros(DICODONS + 4**WORD, dicodon_features().shape[1])
    table[DICODONS:] = dicodon_features()
    rows = torch.where(dna >= DICODONS, dna, 0).long()  # row 0 is zero
    counts = torch.cat([F.embedding_bag(part, table, mode="sum") for part in rows.split(4096)])
    counts /= (rows > 0).sum(dim=1, keepdim=True).clamp_min(1)
    return counts.mean(dim=0), counts.std(dim=0)


def rounded(parameter: Tensor) -> Tensor:
    """Round to float16 with BITS of the fraction, so that the file compresses to two thirds."""
    fraction, exponent = torch.frexp(parameter.float())  # 0.5 <= fraction < 1
    return torch.ldexp(torch.round(fraction * 2 ** (BITS + 1)) / 2 ** (BITS + 1), exponent).half()


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a network, its parameters rounded."""
    exact = ("encoder.inv_freq",)  # rounded, they would give wrong angles at large distances
    save_file(
        {key: (v if key in exact else rounded(v)).contiguous() for key, v in tensors.items()}, path
    )
    path.chmod(0o644)  # safetensors makes it 0600


def train(args: argparse.Namespace) -> None:
    """Train both networks, one after the other, and write the bundle."""
    begin = time.monotonic()
    tokenizer = build_tokenizer()
    data = read_part(args.data, "train")
    validation = find_frames(read_part(args.data, "validation"), tokenizer)
    cuts = [find_frames(data, tokenizer, np.random.default_rng(cut)) for cut in range(CUTS)]
    print(f"{len(cuts[0]):,} frames in a cut, {CUTS} cuts, {time.monotonic() - begin:.0f} s")
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / card.TOKENIZER))
    models: dict[str, TrainedDnabert | TrainedEsm2] = {
        "dnabert": TrainedDnabert(*feature_scale(cuts[0])),
        "esm2": TrainedEsm2(),
    }
    for (kind, model), file in zip(models.items(), (card.DNABERT_S, card.ESM2), strict=True):
        fit(model, kind, cuts, validation)
        save(model.folded(), args.out / file)
        parameters = sum(tensor.numel() for tensor in model.folded().values())
        print(f"{kind}: {parameters:,} parameters")
    write_card(
        args.out, name="virnuc-demo-networks", description=DESCRIPTION, demo=True, window=WINDOW,
        dnabert_s=DNABERT_S, esm2=ESM2, classifier=None,
    )  # fmt: skip
    print(f"{args.out}: {time.monotonic() - begin:.0f} s in all")


def main() -> None:
    """Read the arguments, set the seed, train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="training.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    args = parser.parse_args()
    reuse_memory()
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    train(args)


if __name__ == "__main__":
    main()
