"""What the files of the images copy is all that a run needs; it stays as it is, as in an image."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import REPO, environment


def copied_by_docker() -> Iterator[tuple[str, str]]:
    for line in (REPO / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                yield source, f"{target}/{source}" if target == "./" else target


def copied_by_apptainer() -> Iterator[tuple[str, str]]:
    text = (REPO / "apptainer.def").read_text()
    (files,) = re.findall(r"^%files\n(.*?)^$", text, re.DOTALL | re.MULTILINE)
    for line in files.splitlines():
        *sources, target = line.split()
        for source in sources:
            inside = target.removeprefix("/opt/virnuc").lstrip("/")
            yield source, inside or source


def test_both_images_have_the_same_files() -> None:
    inside = [
        {(a, str(Path(b))) for a, b in each()} for each in (copied_by_docker, copied_by_apptainer)
    ]
    assert inside[0] == inside[1]


def test_a_run_with_the_files_of_an_image(tmp_path: Path) -> None:
    image = tmp_path / "image"
    for source, target in copied_by_docker():
        place = image / target
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (REPO / source).is_dir() else shutil.copy
        copy(REPO / source, place)
    before = {path.relative_to(image) for path in image.rglob("*")}
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.fa").write_text(">a\n" + "ACGTTGCAAC" * 60 + "\n")
    (work / "samples.tsv").write_text("sample\tpath\na\ta.fa\n")
    variables = {**environment(), "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [
            "snakemake", "--snakefile", image / "workflow" / "Snakefile",
            "--profile", image / "profiles" / "local", "--cores", "2", "--config",
            "samples=samples.tsv", f"bundle={image}/demo/bundle", "threads=1",
        ],
        cwd=work, env=variables, text=True, capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "results" / "report.html").exists()
    assert {path.relative_to(image) for path in image.rglob("*")} == before
