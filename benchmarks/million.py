"""What a million contigs will take, by `virnuc-rules estimate`.

    python benchmarks/million.py [--contigs 1000000] [--length 2000] [--folder DIR]

Writes contigs of one length, random pieces of the genomes of the demo (2 GB of FASTA with the
defaults), and asks for a forecast with the published models. Open frames are searched in a
hundredth of the windows. It needs neither a GPU nor the models.
"""

import argparse
import random
import subprocess
import tempfile
from pathlib import Path

from virnuc_rules.reading.fastx import Sequences

REPO = Path(__file__).resolve().parent.parent
DEMO = [REPO / f"demo/data/{name}.fa.gz" for name in ("lake", "gut")]


def main() -> None:
    """Print the forecast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contigs", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=2_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_contigs(folder / "contigs.fa", arguments.contigs, arguments.length)
        (folder / "samples.tsv").write_text("sample\tpath\ncontigs\tcontigs.fa\n")
        command = (
            "virnuc-rules estimate --fraction 0.01 --samples samples.tsv --results none "
            "--bundle bundles/none --bundle-definition virnucpro-500"
        )
        print(command, flush=True)
        subprocess.run(command.split(), cwd=folder, check=True)


def write_contigs(path: Path, count: int, length: int) -> None:
    """Write random pieces of the demo's contigs, each contig drawn by its length."""
    draw = random.Random(1)
    genomes = [
        contig.bases(0, contig.length).decode()
        for file in DEMO
        for contig in Sequences([file], file.name).contigs()
        if contig.length >= length
    ]
    weights = [len(genome) for genome in genomes]
    with path.open("w") as handle:
        for index, genome in enumerate(draw.choices(genomes, weights, k=count)):
            start = draw.randrange(len(genome) - length + 1)
            handle.write(f">contig_{index}\n{genome[start : start + length]}\n")


if __name__ == "__main__":
    main()
