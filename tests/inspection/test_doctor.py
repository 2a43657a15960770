"""`virnuc-rules doctor`: what is sound is ok, what is broken is named, nothing is left behind."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import snakemake_executor_plugin_slurm.submit_string  # noqa: F401 - the first import needs bash in PATH
import torch
import yaml
from harness import BIN, BUNDLE, DEMO, REPO, copy_bundle, environment, spoil

from virnuc_rules.config.model import Config
from virnuc_rules.inspection import doctor, two_processes
from virnuc_rules.inspection.doctor import diagnose
from virnuc_rules.inspection.finding import Finding

NO_GPU = {"slurm_partition": "cpu", "mem_mb": 4000, "runtime": 240}
GPU = {"slurm_partition": "gpu", "gpu": 1, "mem_mb": 24000, "runtime": 720}


@pytest.fixture
def site(tmp_path: Path) -> Config:
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    return Config.of(samples=tmp_path / "samples.tsv", results=tmp_path / "results", bundle=BUNDLE)


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is for tests/slurm, and no driver of NVIDIA is found."""
    monkeypatch.setenv("PATH", str(BIN))
    monkeypatch.setattr(doctor, "_NVIDIA", Path("/nowhere"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow checks, which start processes, are for the tests of them."""
    for check in ("two_processes", "_environment"):
        monkeypatch.setattr(doctor, check, lambda site: iter(()))


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Path:
    """Programs that answer like Slurm's; a real Slurm is asked in tests/slurm."""
    folder = tmp_path / "bin"
    program(folder, "sinfo", 'echo "cpu infinite"; echo "gpu 1-00:00:00"; echo "short 30:00"')
    program(
        folder,
        "sbatch",
        f'echo "$@" >> {tmp_path}/asked\n'
        'case "$*" in *"-p a100"*) echo "error: invalid partition" >&2; exit 1;; esac',
    )
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{BIN}")
    return folder


def write_profile(folder: Path, default: Any = NO_GPU, **rules: Any) -> Path:
    folder.mkdir(exist_ok=True)
    profile = {"default-resources": default, "set-resources": rules}
    (folder / "config.v9+.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    return folder


def findings(config: Config, profile: Path | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(config, profile)}


def failed(config: Config) -> list[Finding]:
    return [finding for finding in diagnose(config) if finding.level == "FAILED"]


def test_a_sound_site(site: Config) -> None:
    found = findings(site)
    assert not [finding for finding in found.values() if finding.level == "FAILED"]
    for check in ("environment", "samples", "links and renames", "two processes", "clock"):
        assert found[check].level == "ok", found[check]
    assert "200 tasks" in found["two processes"].found
    assert "0 lost, 0 claimed twice; a heartbeat is seen" in found["two processes"].found
    assert "a demo model" in found["bundle"].found
    assert found["Slurm"].level == "note"
    assert list(site.run.results.iterdir()) == []


def test_the_command_line(site: Config, tmp_path: Path) -> None:
    options = [f"--{key}={site.flat()[key]}" for key in ("samples", "results", "bundle")]
    nowhere = {**environment(), "PATH": str(tmp_path)}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "virnuc-rules"), "doctor", *options, *more]
        return subprocess.run(command, env=nowhere, text=True, capture_output=True, timeout=200)

    good = run("--json")
    assert good.returncode == 0, good.stdout + good.stderr
    assert [json.loads(line)["level"] for line in good.stdout.splitlines()].count("FAILED") == 0
    bad = run("--device=cuda:9")
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    levels = [line.split()[0] for line in bad.stdout.splitlines()]  # a finding is one line
    assert len(levels) == len(good.stdout.splitlines()) and levels.count("FAILED") == 1
    assert "\x1b" not in bad.stdout


def test_another_version_in_path(
    site: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "old", "virnuc-rules", "echo virnuc-rules 0.0.1")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    (found,) = failed(site)
    assert found.check == "environment" and "0.0.1" in found.remedy


def test_no_version_in_path(site: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings(site)["environment"]
    assert found.level == "warning" and "not in PATH" in found.remedy


def test_more_threads_than_cores(site: Config) -> None:
    found = findings(site.replace(threads=100_000))["environment"]
    assert found.level == "warning" and "threads: 100000" in found.remedy


@pytest.mark.usefixtures("quick")
def test_a_filesystem_without_hard_links(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    found = findings(site)["links and renames"]
    assert found.level == "FAILED" and "Operation not permitted" in found.found


@pytest.mark.usefixtures("quick")
def test_a_link_that_replaces(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def careless(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        link(source, target)

    monkeypatch.setattr(os, "link", careless)
    assert "two workers would get one chunk" in findings(site)["links and renames"].found


def test_two_processes_that_do_not_see_each_other(
    site: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_processes, "_drain", lambda folder: list(two_processes._KEYS))
    found = findings(site)["two processes"]
    assert found.level == "FAILED"  # the other one claimed all of them too
    assert "200 claimed twice" in found.found


def test_a_heartbeat_that_is_seen_too_late(site: Config) -> None:
    serving = site.serving.model_copy(update={"lease_seconds": 1e-9})  # not a value for users
    found = findings(site.model_copy(update={"serving": serving}))["two processes"]
    assert found.level == "FAILED" and "a heartbeat of another process was not seen" in found.found
    assert list(site.run.results.iterdir()) == []
    children = psutil.Process().children()
    assert not [child for child in children if two_processes.__name__ in child.cmdline()]


def test_another_process_that_cannot_start(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = site.run.results.parent / "python"
    program(broken.parent, broken.name, "echo no such module >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(broken))
    found = findings(site)["two processes"]
    assert found.level == "FAILED" and "no such module" in found.found


def test_a_file_in_place_of_the_results(site: Config, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    checks = {finding.check for finding in failed(site)}
    assert {"results folder", "links and renames", "two processes"} <= checks


@pytest.fixture
def read_only(site: Config) -> Iterator[None]:
    """Root may write where permissions forbid it, but not where a mount does."""
    site.run.results.mkdir()
    folder = str(site.run.results)
    try:
        for command in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
            subprocess.run(["/bin/mount", *command], check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, FileNotFoundError):
        subprocess.run(["/bin/umount", folder], check=False, capture_output=True, timeout=60)
        pytest.skip("mounting needs root, with the right to mount")
    yield
    subprocess.run(["/bin/umount", "--lazy", folder], check=True, timeout=60)


@pytest.mark.usefixtures("quick", "read_only")
def test_results_that_are_read_only(site: Config) -> None:
    found = findings(site)["results folder"]
    assert found.level == "FAILED" and "Read-only file system" in found.found
    assert "set `results`" in found.found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("least", ["_MIN_SPACE", "_MIN_INODES"])
def test_little_room(site: Config, monkeypatch: pytest.MonkeyPatch, least: str) -> None:
    monkeypatch.setattr(doctor, least, 1e30)
    found = findings(site)["results folder"]
    assert found.level == "warning" and "a file for each chunk" in found.remedy


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no tmpfs here")
def test_results_in_memory_on_a_cluster(
    site: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Path
) -> None:
    monkeypatch.setattr(doctor, "_MIN_SPACE", 0)
    monkeypatch.setattr(doctor, "_MIN_INODES", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        there = site.replace(results=Path(memory))
        found = findings(there, write_profile(tmp_path / "site", serve=GPU))["results folder"]
        assert found.level == "warning" and "other nodes do not see it" in found.remedy
        monkeypatch.setenv("PATH", str(BIN))
        assert findings(there)["results folder"].level == "ok"  # one machine


@pytest.mark.usefixtures("quick")
def test_a_clock_that_is_behind(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 100)
    found = findings(site)["clock"]
    assert found.level == "warning" and "100.0 s off" in found.found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda b: (b / "esm2.safetensors").unlink(), "No such file"),
        (lambda b: spoil(b / "esm2.safetensors"), "sha256 differs"),
        (lambda b: (b / "bundle.json").unlink(), "bundle.json: no such file"),
    ],
)
def test_a_bundle_that_is_not_whole(
    site: Config, tmp_path: Path, change: Callable[[Path], None], cause: str
) -> None:
    bundle = copy_bundle(tmp_path)
    change(bundle)
    (found,) = failed(site.replace(bundle=bundle))
    assert found.check == "bundle" and cause in found.found and "make" in found.found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("setting", "check", "cause"),
    [
        ({"window": 300}, "bundle", "windows of 500"),
        ({"device": "cuda:9"}, "device", "cuda:9 is not available"),
        ({"precision": "fp16"}, "device", "needs a CUDA device"),
        ({"samples": Path("nowhere.tsv")}, "samples", "nowhere.tsv"),
    ],
)
def test_settings_that_do_not_fit(
    site: Config, setting: dict[str, object], check: str, cause: str
) -> None:
    (found,) = failed(site.replace(**{"device": "cpu", **setting}))
    assert found.check == check and cause in found.found


@pytest.mark.usefixtures("quick")
def test_an_input_file_that_is_missing(site: Config) -> None:
    site.inputs.samples.write_text("sample\tpath\nlake\tnowhere.fa\n")
    (found,) = failed(site)
    assert found.check == "samples" and "nowhere.fa: no such file" in found.found


@pytest.mark.usefixtures("quick")
def test_the_beginning_of_an_input_file_is_read(site: Config, tmp_path: Path) -> None:
    """What can be known in a second is said before the first job; the rest `chunk` finds."""
    table, late = tmp_path / "table.fa", tmp_path / "late.fa"
    table.write_text("sample\tpath\n")
    late.write_text(">a\nACGT\n>b\nMKLV\n")
    site.inputs.samples.write_text(f"sample\tpath\na\t{late}\nb\t{table}\nb\t{DEMO['gut']}\n")
    (found,) = failed(site)
    assert found.check == "samples" and found.found.startswith(f"sample b: {table}: ")


@pytest.mark.usefixtures("quick")
def test_samples_that_are_chunked_need_no_files(
    site: Config, tmp_path: Path, command: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    good, bad = tmp_path / "good.fa", tmp_path / "bad.fa"
    good.write_text(">a\nACGT\n")
    bad.write_text(">a\nACGT\n>b\nMKLV\n")
    site.inputs.samples.write_text(f"sample\tpath\ngood\t{good}\nbad\t{bad}\n")
    for path in (good, bad):
        out = site.run.results / "chunks" / path.stem
        done = command("chunk", path, "--out", out, "--window", 500,
                       "--sample", path.stem, "--stamp", out / "done")  # fmt: skip
        assert done.returncode == 0, done.stderr
    good.unlink()
    (found,) = failed(site)
    assert found.check == "samples" and found.found.startswith(f"sample bad: {bad}: record 2")


@pytest.mark.usefixtures("quick")
def test_an_unverified_precision_is_a_warning(site: Config) -> None:
    found = findings(site.replace(precision="bf16"))["device"]
    assert found.level == "warning" and "models verify" in found.remedy


@pytest.mark.usefixtures("quick")
def test_weights_that_need_more_memory(site: Config, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path)
    with (bundle / "larger.safetensors").open("wb") as handle:
        handle.truncate(10**13)  # a hole: it takes no space
    found = findings(site.replace(bundle=bundle))["device"]
    assert found.level == "warning" and "10000.0 GB" in found.remedy


@pytest.mark.usefixtures("quick")
def test_a_driver_without_a_device(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NVIDIA", Path(__file__))
    assert "torch sees no device" in findings(site)["device"].remedy


@pytest.mark.usefixtures("quick", "as_if_cuda")
def test_a_gpu(site: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of its numbers are computed on the CPU here."""
    ones, right = torch.ones, iter([1, 1, 2])
    monkeypatch.setattr(
        torch, "ones", lambda *shape, device, dtype: next(right) * ones(*shape, dtype=dtype)
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    found = findings(site)["device"]
    said = "cuda:0 (NVIDIA H100), precision fp16, 70.0 GB of memory free, CUDA_VISIBLE_DEVICES=4,5"
    assert found.found == said
    assert found.level == "warning" and "models verify" in found.remedy
    bundle = copy_bundle(tmp_path)
    with (bundle / "larger.safetensors").open("wb") as handle:
        handle.truncate(200 * 10**9)  # in fp32
    found = findings(site.replace(bundle=bundle, device="cuda:1"))["device"]
    assert found.found.startswith("cuda:1 (") and "need 100.0 GB" in found.remedy
    assert "cuda:0 multiplies wrongly" in findings(site)["device"].found


def test_slurm_is_asked_with_the_plugins_options(site: Config, tmp_path: Path, slurm: Path) -> None:
    embed = {**GPU, "runtime": "12h", "mem_mb": "1000 * attempt", "constraint": "a100&big"}
    profile = write_profile(tmp_path / "site", serve=GPU, embed_chunk=embed)
    found = findings(site, profile)
    for rule in ("default", "serve", "embed_chunk"):
        assert found[f"Slurm, jobs of {rule}"].level == "ok"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "--test-only -p cpu -t 240 --mem 4000 --ntasks=1 --cpus-per-task=1 --wrap=true",
        "--test-only -p gpu -t 720 --mem 24000 --cpus-per-task=2 --gpus=1 --wrap=true",
        "--test-only -p gpu -t 720 -C a100&big --mem 1000 --cpus-per-task=2 --gpus=1 --wrap=true",
    ]


@pytest.mark.parametrize(
    ("resources", "level", "cause"),
    [
        ({"slurm_partition": "a100"}, "FAILED", "the partitions are cpu, gpu, short"),
        ({"slurm_partition": "short"}, "FAILED", "720 minutes, of 30"),
        ({"slurm_partition": "short,gpu"}, "ok", ""),
        ({"runtime": 24 * 60 + 1}, "FAILED", "1441 minutes, of 1440"),
        ({"runtime": 24 * 60}, "ok", ""),
        ({"gpu": 0, "gpus": 1}, "warning", "not `gpus`"),
        ({"gpu": 0, "gres": "gpu:a100:1"}, "ok", ""),
    ],
)
def test_what_a_worker_asks_for(
    site: Config, tmp_path: Path, slurm: Path, resources: dict[str, Any], level: str, cause: str
) -> None:
    profile = write_profile(tmp_path / "site", serve={**GPU, **resources})
    found = findings(site, profile)
    assert found["Slurm, jobs of default"].level == "ok"
    assert found["Slurm, jobs of serve"].level == level
    assert cause in str(found["Slurm, jobs of serve"])


def test_a_profile_that_forgets_the_workers(site: Config, tmp_path: Path, slurm: Path) -> None:
    profile = write_profile(tmp_path / "site")
    assert "no GPU" in findings(site, profile)["Slurm, jobs of serve"].remedy
    on_cpus = site.replace(device="cpu")
    assert findings(on_cpus, profile)["Slurm, jobs of serve"].level == "ok"


def test_the_profile_of_this_folder(
    site: Config, tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no profile" in findings(site)["Slurm"].found
    monkeypatch.chdir(REPO)
    found = findings(site)
    assert found["Slurm, jobs of serve"].level == found["Slurm, jobs of default"].level == "ok"


def test_a_slurm_that_does_not_answer(site: Config, slurm: Path) -> None:
    program(slurm, "sinfo", "echo Unable to contact slurm controller >&2; exit 1")
    (found,) = failed(site)
    assert found.check == "Slurm" and "Unable to contact" in found.found


def test_a_check_that_breaks_is_a_finding(site: Config, tmp_path: Path, slurm: Path) -> None:
    profile = write_profile(tmp_path / "site")
    (profile / "config.v9+.yaml").write_text("- a list\n")
    found = findings(site, profile)["Slurm"]
    assert found.level == "FAILED" and found.found.startswith("AttributeError: 'list'")


@pytest.mark.usefixtures("quick")
def test_a_missing_bundle_stops_no_other_check(
    site: Config, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The command does not need the window of the bundle, which others take from it."""
    options = ("--samples", site.inputs.samples, "--results", site.run.results)
    done = command("doctor", *options, "--bundle", tmp_path / "nowhere", "--device", "cpu")
    assert done.returncode == 1
    assert "FAILED  bundle: " in done.stdout and "ok      device: cpu" in done.stdout
