"""What a run will take, against what a run of the demo took."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, DEMO, Project, environment

from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.config.load import write_run_config
from virnuc_rules.config.model import Config
from virnuc_rules.errors import ModelError
from virnuc_rules.inspection.estimate import Estimate, estimate
from virnuc_rules.inspection.rates import TABLE, Model, measured
from virnuc_rules.serving.worker_report import WorkerReport


def config(project: Project, **settings: Any) -> Config:
    keys = {**project.settings, "samples": project.folder / "samples.tsv"}
    return Config.of(**{**keys, "results": project.folder / "none", **settings})


def manifests(project: Project) -> list[Manifest]:
    return [read_manifest(project.paths.chunks(sample)) for sample in project.samples]


def forecast(project: Project, fraction: float = 1, **settings: Any) -> Estimate:
    return estimate(config(project, **settings), fraction, project.results)


def test_what_a_run_of_the_demo_takes(undisturbed: Project) -> None:
    found, done = forecast(undisturbed), manifests(undisturbed)
    for name in ("contigs", "bases", "windows", "open_frames"):
        assert getattr(found, name) == sum(getattr(each, name) for each in done)
    assert found.chunks == undisturbed.chunks()
    residues = sum(entry.residues for each in done for entry in each.chunks)
    assert found.tokens == residues + 2 * found.open_frames
    paths = {path.stat().st_ino: path.stat() for path in undisturbed.results.rglob("*")}
    assert found.inodes == pytest.approx(len(paths) + 1, rel=0.05)
    files = {p.stat().st_ino: p.stat().st_size for p in undisturbed.results.rglob("*.*")}
    took = sum(size for inode, size in files.items() if paths[inode].st_nlink < 3)
    viral = sum(path.stat().st_size for path in undisturbed.results.rglob("*.fa.gz"))
    took += round(found.bases * 0.15) - viral  # this bundle calls nearly everything virus
    assert found.other_bytes + found.embeddings_bytes == pytest.approx(took, rel=0.2)
    here, *table = found.times
    report = WorkerReport.model_validate(undisturbed.report())
    worked = (report.updated - report.started).total_seconds()
    assert 3600 * here.device_hours == pytest.approx(worked - report.seconds_waiting, rel=0.1)
    assert here.device == "cpu, fp32" and len(table) == len(TABLE)
    assert not (undisturbed.folder / "none").exists()


def test_a_part_of_the_windows(undisturbed: Project) -> None:
    every, some = forecast(undisturbed), forecast(undisturbed, 0.25)
    for name in ("samples", "contigs", "bases", "windows"):
        assert getattr(every, name) == getattr(some, name)
    for name in ("open_frames", "chunks", "tokens", "other_bytes", "inodes"):
        assert getattr(some, name) == pytest.approx(getattr(every, name), rel=0.2)
    assert some.open_frames != every.open_frames and some.fraction == 0.25
    assert "from 0.25 of the windows" in "\n".join(some.lines())


@pytest.mark.parametrize("fraction", [1, 0.2])
def test_windows_of_short_and_long_contigs_count_alike(tmp_path: Path, fraction: float) -> None:
    lines = "".join(f">{n}\n{'GCTGCAGGAACC' * 50}\n" for n in range(20))
    (tmp_path / "a.fa").write_text(lines + f">long\n{'GCTGCAGGAACC' * 2500}\n")
    project = Project(tmp_path / "run", {"a": tmp_path / "a.fa"})
    found = forecast(project, fraction)
    assert (found.windows, found.contigs, found.open_frames) == (100, 21, 600)


def test_chunked_samples_are_not_read_again(chunked: Project, tmp_path: Path) -> None:
    samples = {name: tmp_path / f"{name}.fa.gz" for name in DEMO}
    for name, path in samples.items():
        path.write_bytes(DEMO[name].read_bytes())
    chunked.set_samples(samples)
    chunked.chunk()
    before = forecast(chunked, results=chunked.results)
    for path in samples.values():
        path.unlink()
    assert forecast(chunked, 0.25, results=chunked.results).open_frames == before.open_frames
    found = forecast(chunked)
    assert found.samples == found.open_frames == found.chunks == 0
    assert [line.split(":")[0] for line in found.unusable] == ["sample lake", "sample gut"]
    assert "cannot be used: sample lake" in "\n".join(found.lines())


def test_the_speed_of_workers(undisturbed: Project, tmp_path: Path) -> None:
    """Two workers, each 3 s from start to end without computing, and 100 frames a second."""
    project = Project(tmp_path)
    project.chunk()
    write_run_config(config(project, results=project.results))
    project.paths.worker_reports.mkdir(parents=True)
    now = datetime.now(UTC)
    for name, device in {"0": "cuda:0 (NVIDIA X)", "1": "cuda:1 (NVIDIA X)", "2": "cpu"}.items():
        report = WorkerReport(
            worker=name, owner=name, pid=1, host="h", device=device, precision="fp16", versions={},
            started=now, updated=now + timedelta(seconds=14), chunks=10, open_frames=1000,
            seconds_computing=10.5, seconds_first_chunk=1.5, seconds_waiting=1,
        )  # fmt: skip
        (project.paths.worker_reports / f"{name}.json").write_text(report.model_dump_json())
    gpu, cpu = measured(project.results)
    assert (gpu.device, cpu.device) == ("NVIDIA X, fp16", "cpu, fp16")
    assert gpu.operations == pytest.approx(cpu.operations)
    assert gpu.start == pytest.approx(3)  # 14 - 1 - 10
    found = forecast(project, workers=4)
    here, *_ = estimate(config(project, workers=4), 1, project.results).times
    assert 3600 * here.device_hours == pytest.approx(found.open_frames / 100 + 4 * 3, rel=1e-6)
    rounds = -(-found.chunks // 4) / found.chunks
    assert 3600 * here.wall_hours == pytest.approx(3 + rounds * found.open_frames / 100, rel=1e-6)
    assert here.source == "measured here, 2 workers with virnuc-untrained"
    only = {"chunks": 1, "failed_chunks": 1, "open_frames": 150, "seconds_computing": 1.5}
    for path in project.paths.worker_reports.glob("[01].json"):  # the other chunk cost its workers
        path.write_text(json.dumps(json.loads(path.read_text()) | only))
    assert measured(project.results)[0].operations == pytest.approx(cpu.operations)
    project.paths.config.unlink()
    assert measured(project.results) == []


def test_a_bundle_that_is_to_be_made(undisturbed: Project, tmp_path: Path) -> None:
    found = forecast(undisturbed, bundle=tmp_path, bundle_definition="virnucpro-500")
    assert found.embeddings_bytes / found.open_frames == pytest.approx(13312, rel=0.01)
    h100 = next(time for time in found.times if "H100" in time.device)
    assert 3600 * h100.device_hours == pytest.approx(found.open_frames / 356, rel=0.02)
    assert "scaled" not in h100.source
    assert any("scaled from" in time.source for time in found.times)
    own = tmp_path / "own.yaml"
    own.write_text("name: x\ndescription: x\nwindow: 500\ndnabert_s: {path: a}\nesm2: {path: b}\n")
    with pytest.raises(ModelError, match="no `parameters`"):
        Model.of(config(undisturbed, bundle=tmp_path / "no", bundle_definition=str(own)))


def test_the_command(undisturbed: Project, command: Callable[..., Any], tmp_path: Path) -> None:
    sheet = ("--samples", undisturbed.folder / "samples.tsv", "--bundle", BUNDLE)
    results = ("--results", tmp_path / "none", "--measured-in", undisturbed.results)
    done = command("estimate", *sheet, *results, "--chunk-size", 40, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert f" {undisturbed.chunks()} chunks" in done.stdout
    assert "cpu, fp32: 0:0" in done.stdout and "measured here, 1 worker" in done.stdout
    done = command("estimate", *sheet, *results, "--chunk-size", 40, "--json")
    assert json.loads(done.stdout) == forecast(undisturbed).model_dump()


def test_torch_is_not_needed(undisturbed: Project) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from virnuc_rules.cli.main import main\n"
        "sys.argv = ['virnuc-rules', 'estimate', *sys.argv[1:]]; main()"
    )
    options = ("--configfile", undisturbed.folder / "config.yaml", "--fraction", "0.1")
    command = [sys.executable, "-c", script, *map(str, options)]
    done = subprocess.run(
        command, cwd=undisturbed.folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2 samples, 63 contigs, 924,817 bases" in done.stdout
