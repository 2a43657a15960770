"""How many pieces of whole bacteria a bundle calls virus, each genome as a sample of its own.

    python demo/train/fetch.py --out build/demo/sources
    python benchmarks/bacteria.py --source build/demo/sources --bundle demo/bundle

Every second 15,000 bases of five genomes in Debian packages (S5 of the cases that VirNuc 0.1 was
tried with). Bacteria hold prophages, so a few pieces are rightly called virus. The species are held
out from the demo bundle. Calls are those of `snakemake`, by default and with `calls: conservative`;
the viral fraction is estimated for each sample.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from virnuc_rules.config.run_folder import RunFolder

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo/train"))
from sequences import read_sources

REPO = Path(__file__).resolve().parents[1]
PIECE = 15_000  # bases
SPECIES = (
    "Escherichia coli", "Staphylococcus aureus", "Vibrio cholerae", "Klebsiella pneumoniae",
    "Helicobacter pylori",
)  # fmt: skip


def write_pieces(source: Path, folder: Path) -> dict[str, Path]:
    """Write the pieces of each genome as a FASTA file; return the files by sample."""
    files = {}
    for row in read_sources(source):
        if row.organism in SPECIES:
            sample = row.organism.replace(" ", "_")
            files[sample] = folder / f"{sample}.fa"
            with files[sample].open("w") as handle:
                for record in row.records():
                    for start in range(0, len(record.bases) - PIECE + 1, 2 * PIECE):
                        piece = record.bases[start : start + PIECE].decode()
                        handle.write(f">{record.id}:{start + 1}-{start + PIECE}\n{piece}\n")
    return files


def run(folder: Path, files: dict[str, Path], bundle: Path, calls: str) -> dict[str, list[str]]:
    """Run the workflow; return the calls of the contigs of each sample."""
    sheet = "".join(f"{sample}\t{path}\n" for sample, path in files.items())
    (folder / "samples.tsv").write_text("sample\tpath\n" + sheet)
    results = RunFolder(folder / "results")
    settings = {"samples": str(folder / "samples.tsv"), "results": str(folder / "results"),
                "bundle": str(bundle.resolve()), "calls": calls}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    command = ["snakemake", "--profile", "profiles/local", "--configfile", folder / "config.yaml"]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPO,
    )
    found = {}
    for sample in files:
        with results.sample(sample).tsv("contigs").open(newline="") as handle:
            found[sample] = [row["call"] for row in csv.DictReader(handle, delimiter="\t")]
    return found


def main() -> None:
    """Print a line for each genome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the packages")
    parser.add_argument("--bundle", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        files = write_pieces(args.source, folder)
        by_calls = {
            calls: run(folder, files, args.bundle, calls) for calls in ("default", "conservative")
        }
    print(f"| {PIECE:,} bases of | pieces | {' | '.join(by_calls)} |\n| --- | ---: | ---: | ---: |")
    for sample in files:
        counts = [found[sample].count("virus") for found in by_calls.values()]
        pieces = len(by_calls["default"][sample])
        cells = " | ".join(f"{count} ({count / pieces:.1%})" for count in counts)
        print(f"| {sample.replace('_', ' ')} | {pieces} | {cells} |")


if __name__ == "__main__":
    main()
