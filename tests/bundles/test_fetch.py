"""Downloads: from a real server on this machine, interrupted, wrong, absent, and from the hub."""

import base64
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from harness import BUNDLE, environment, files_of_at_most, run, sha256, wait_until
from published import (
    REVISION,
    Server,
    hub_source,
    published,
    sha256_of,
    write_definition,
)
from safetensors.torch import save_file

from virnuc_rules.bundles.definition import (
    HubSource,
    PathSource,
    UrlSource,
    customized,
    read_definition,
)
from virnuc_rules.bundles.fetch import fetch
from virnuc_rules.bundles.prepare import prepare_bundle
from virnuc_rules.errors import EnvironmentProblem, ModelError, UnreachableError
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import FILES, read_card

MIB = 2**20
CONTENT = np.random.default_rng(1).bytes(24 * MIB)  # the library writes in steps of 10 MiB


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    server.files["/models/big.pt"] = CONTENT
    yield server
    server.close()


def source(server: Server, sha256: str | None = sha256_of(CONTENT)) -> UrlSource:
    return UrlSource(url=f"{server.url}/models/big.pt", sha256=sha256)


def refusal(source: UrlSource, cache: Path) -> str:
    with pytest.raises(ModelError) as raised:
        fetch(source, cache)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert source.url in message
    return message


def kept(cache: Path) -> dict[str, int]:
    """Sizes of the files in a cache by name."""
    files = [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.name: path.stat().st_size for path in files}


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path, found = fetch(source(server), tmp_path)
        assert path.read_bytes() == CONTENT
        assert found == {"big.pt": sha256_of(CONTENT)}
    assert server.requests == [("/models/big.pt", None)]
    assert kept(tmp_path) == {"big.pt": len(CONTENT)}


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path, _ = fetch(source(server), tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetch(source(server), tmp_path).path.read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_short_interruption_is_not_noticed(server: Server, tmp_path: Path) -> None:
    server.cut = 15 * MIB
    server.hold.clear()

    def mend() -> None:  # before the library tries again
        server.cut = None
        server.hold.set()

    threading.Thread(target=lambda: (wait_until(lambda: server.cut == 0), mend())).start()
    assert fetch(source(server), tmp_path).path.read_bytes() == CONTENT
    assert server.requests == [("/models/big.pt", None), ("/models/big.pt", f"bytes={10 * MIB}-")]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut = 15 * MIB
    assert "answers 503" in refusal(source(server), tmp_path)
    assert kept(tmp_path) == {"big.pt.partial": 10 * MIB}
    server.cut, server.ranges, server.requests = None, ranges, []
    assert fetch(source(server), tmp_path).path.read_bytes() == CONTENT
    assert server.requests == [("/models/big.pt", f"bytes={10 * MIB}-")]
    assert kept(tmp_path) == {"big.pt": len(CONTENT)}
    # A part of what a server has compressed is no part of the file.
    assert set(server.encodings) == {"identity"}


def test_ctrl_c_leaves_what_can_be_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = 15 * MIB
    server.hold.clear()
    code = (  # a test run in the background ignores Ctrl-C, and hands that down
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from sys import argv; from pathlib import Path;"
        "from virnuc_rules.bundles import fetch as f"
    )
    code += "; f.fetch(f.UrlSource(url=argv[1], sha256=argv[2]), Path(argv[3]))"
    url = source(server).url
    process = subprocess.Popen(
        [sys.executable, "-c", code, url, sha256_of(CONTENT), str(tmp_path)],
        env={**environment(), "HF_HUB_DOWNLOAD_TIMEOUT": "300"},  # it is to wait, not to try again
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: kept(tmp_path).get("big.pt.partial") == 10 * MIB)
    with pytest.raises(ModelError, match="another process is downloading"):
        fetch(source(server), tmp_path)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    server.cut, server.requests = None, []
    assert fetch(source(server), tmp_path).path.read_bytes() == CONTENT
    assert server.requests == [("/models/big.pt", f"bytes={10 * MIB}-")]


def test_one_that_was_killed_before_the_rename_is_not_asked_for(
    server: Server, tmp_path: Path
) -> None:
    path, _ = fetch(source(server), tmp_path)
    path.rename(path.with_name("big.pt.partial"))
    assert fetch(source(server), tmp_path).path == path
    assert len(server.requests) == 1


def test_more_than_the_server_has_is_replaced(server: Server, tmp_path: Path) -> None:
    path, _ = fetch(source(server), tmp_path)
    path.rename(path.with_name("big.pt.partial"))
    path.with_name("big.pt.partial").write_bytes(CONTENT + b"more")
    assert fetch(source(server), tmp_path).path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_hash_keeps_nothing(server: Server, tmp_path: Path) -> None:
    message = refusal(source(server, "0" * 64), tmp_path)
    assert f"expected sha256 {'0' * 64}, found {sha256_of(CONTENT)}" in message
    assert kept(tmp_path) == {}


def test_a_wrong_part_keeps_nothing(server: Server, tmp_path: Path) -> None:
    path, _ = fetch(source(server), tmp_path)
    path.unlink()
    path.with_name("big.pt.partial").write_bytes(b"x" * MIB)
    assert "expected sha256" in refusal(source(server), tmp_path)
    assert kept(tmp_path) == {}


def test_without_a_sha256_nothing_is_put_together(server: Server, tmp_path: Path) -> None:
    server.cut = 15 * MIB
    refusal(source(server, None), tmp_path)
    server.cut, server.requests = None, []
    path, found = fetch(source(server, None), tmp_path)
    assert path.read_bytes() == CONTENT
    assert found == {"big.pt": sha256_of(CONTENT)}
    assert server.requests == [("/models/big.pt", None)]


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    assert "answers 404: the file does not exist" in refusal(source(server), tmp_path)


def test_a_full_disk_is_no_missing_network(server: Server, tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentProblem, match=r"big\.pt\.partial: File too large"),
        files_of_at_most(MIB),
    ):
        fetch(source(server), tmp_path)


def test_each_address_has_a_file_of_its_own(server: Server, tmp_path: Path) -> None:
    models = {f"/get?id={window}": bytes([window % 256]) * 9 for window in (300, 500)}
    server.files |= models
    for _ in range(2):
        for path, content in models.items():
            source = UrlSource(url=server.url + path, sha256=sha256_of(content))
            assert fetch(source, tmp_path).path.read_bytes() == content
    assert [path for path, _ in server.requests] == list(models)


def test_the_expected_sha256_is_a_part_of_the_key(server: Server, tmp_path: Path) -> None:
    """The file of one definition stays where another one expects something else."""
    first = fetch(source(server), tmp_path).path
    refusal(source(server, "0" * 64), tmp_path)
    assert fetch(source(server), tmp_path).path == first
    assert len(server.requests) == 2


def test_other_files_of_a_repository_are_not_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two files of weights a folder is read from must be what the definition says."""
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    folder = published(tmp_path / "published")["dnabert_s"]
    save_file(torch.load(folder / "pytorch_model.bin"), folder / "model.safetensors")
    server.add_hub("lab/DNABERT-S", folder)
    both = hub_source("lab/DNABERT-S", folder)["files"]
    for name in ("model.safetensors", "pytorch_model.bin"):
        files = {"config.json": both["config.json"], name: both[name]}
        wanted = HubSource(hub="lab/DNABERT-S", revision=REVISION, files=files)
        path, _ = fetch(wanted, tmp_path / "cache")
        assert {file.name for file in path.iterdir()} == set(files)


def test_a_file_without_a_sha256_is_asked_for_until_it_is_accepted(
    server: Server, tmp_path: Path
) -> None:
    server.files["/models/big.pt"] = b"<html>Log in to the network</html>"
    fetch(source(server, None), tmp_path)  # and its process is killed
    server.files["/models/big.pt"] = b"the model"
    fetched = fetch(source(server, None), tmp_path)
    assert fetched.path.read_bytes() == b"the model"
    fetched.accept("big.pt")
    assert fetch(source(server, None), tmp_path) == fetched
    assert len(server.requests) == 2
    fetched.path.write_bytes(b"damaged")
    server.files["/models/big.pt"] = b"a newer model"
    assert fetch(source(server, None), tmp_path).path.read_bytes() == b"a newer model"


def test_local_files_are_hashed(tmp_path: Path) -> None:
    sources = published(tmp_path)
    path, found = fetch(PathSource(path=sources["dnabert_s"]), tmp_path / "cache")
    assert path == sources["dnabert_s"]
    assert found == {file.name: sha256(file) for file in path.iterdir()}
    assert not (tmp_path / "cache").exists()
    weights = sources["classifier"]
    right = PathSource(path=weights, sha256={weights.name: sha256(weights)})
    assert fetch(right, tmp_path).sha256 == {weights.name: sha256(weights)}
    for wrong, reason in (
        (PathSource(path=weights, sha256={weights.name: "0" * 64}), "expected sha256 0000"),
        (PathSource(path=weights, sha256={"other": "0" * 64}), "other: not among the files"),
        (PathSource(path=tmp_path / "absent"), "No such file"),
        (PathSource(path=tmp_path / "cache"), "No such file"),
    ):
        with pytest.raises(ModelError, match=reason) as raised:
            fetch(wrong, tmp_path)
        assert str(raised.value).startswith(f"{wrong.path}: ")


# --- the whole way, as a user takes it ---------------------------------------------------------


@pytest.fixture
def definition(server: Server, tmp_path: Path) -> Path:
    """DNABERT-S and ESM-2 on a hub, the classifier on a web server, all on this machine."""
    sources = published(tmp_path / "published")
    for hub, name in (("lab/DNABERT-S", "dnabert_s"), ("lab/esm2", "esm2")):
        server.add_hub(hub, sources[name])
    server.files["/repo/500_model.pth"] = sources["classifier"].read_bytes()
    return write_definition(
        tmp_path / "mine.yaml",
        dnabert_s=hub_source("lab/DNABERT-S", sources["dnabert_s"]),
        esm2=hub_source("lab/esm2", sources["esm2"]),
        classifier={
            "url": f"{server.url}/repo/500_model.pth",
            "sha256": sha256(sources["classifier"]),
        },
    )


def prepare(
    server: Server, *arguments: object, **variables: str
) -> subprocess.CompletedProcess[str]:
    """As a user does: what the environment says is read when the library of the hub is imported."""
    here = {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
    return run("virnuc-rules", "models", "prepare", *arguments, **{**here, **variables})


@pytest.fixture
def prepare_here(
    command: Callable[..., Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """The same in this process."""
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return lambda *arguments: command("models", "prepare", *arguments)


def test_a_bundle_from_the_network(
    server: Server, definition: Path, prepare_here: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "bundles" / "mine"
    done = prepare(server, definition, "--out", out)
    assert done.returncode == 0, done.stderr
    paths = published(tmp_path / "local")
    options = [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
    local = prepare_here(*options, "--window", 500, "--out", tmp_path / "local/out")
    assert local.returncode == 0, local.stderr
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "local/out" / name).read_bytes()
    card = read_card(out)
    esm2 = card.source["esm2"]
    assert (esm2.origin, esm2.revision) == ("lab/esm2", REVISION)
    assert esm2.sha256 == hub_source("", tmp_path / "published/esm2_t4")["files"]
    assert card.source["classifier"].origin == f"{server.url}/repo/500_model.pth"
    assert card.fingerprint == read_card(tmp_path / "local/out").fingerprint
    features = torch.randn(5, 48), torch.randn(5, 64)
    scores = Bundle(out).open_classifier().scores(*features)
    assert torch.equal(scores, Bundle(BUNDLE).open_classifier().scores(*features))
    before = len(server.requests)
    assert prepare_here(definition, "--out", tmp_path / "bundles/again").returncode == 0
    assert len(server.requests) == before  # from `.downloads` beside both


def test_without_a_network_it_says_what_to_run(
    server: Server, definition: Path, prepare_here: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = yaml.safe_load(definition.read_text())
    sizes["esm2"]["bytes"] = 5_678_116_398
    sizes["classifier"]["bytes"] = 6_800_000
    definition.write_text(yaml.safe_dump(sizes))
    prepare_here(definition, "--out", tmp_path / "first")  # keeps all, then ESM-2 is lost
    for kept_file in (tmp_path / ".downloads").rglob("esm2-*/*"):
        kept_file.unlink()
    server.close()
    out = tmp_path / "out dir"
    done = prepare_here(definition, "--out", out)
    assert done.returncode == 1
    *needed, error = done.stderr.splitlines()
    assert f"error: {server.url}/lab/esm2/resolve/{REVISION}/" in error
    assert f"run `virnuc-rules models prepare {definition} --out '{out}'`" in error
    assert "Traceback" not in done.stderr and not out.exists()
    mirror = "or a copy by `models prepare --esm2 FOLDER`, or HF_ENDPOINT, a mirror"
    assert [line for line in needed if line.startswith("needed: ")] == [
        f"needed: {server.url}/lab/esm2/resolve/{REVISION}/{name} (5.7 GB in 2 files), {mirror}"
        for name in sorted(hub_source("", tmp_path / "published/esm2_t4")["files"])
    ]
    done = prepare_here(definition, "--out", out, "--cache", tmp_path / "empty")
    *needed, error = (line for line in done.stderr.splitlines() if "downloading" not in line)
    assert len(needed) == 3 + 2 + 1
    assert all("(unknown size in 3 files), or a copy by" in line for line in needed[:3])
    # A mirror of the hub has no file of a web server.
    option = "or a copy by `models prepare --classifier FILE`"
    assert needed[-1] == f"needed: {server.url}/repo/500_model.pth (6.8 MB), {option}"
    assert f"error: {server.url}/repo/500_model.pth: cannot be reached (" in error


def test_offline_by_decision(server: Server, definition: Path, tmp_path: Path) -> None:
    done = prepare(server, definition, "--out", tmp_path / "out", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "offline mode is enabled" in done.stderr
    assert server.requests == []


def test_what_is_not_pinned_is_refused_before_any_download(
    server: Server, definition: Path, prepare_here: Callable[..., Any], tmp_path: Path
) -> None:
    unpinned = re.sub(r"(config\.json): \w+", r"\1: null", definition.read_text())
    definition.write_text(unpinned)
    assert len(read_definition(definition).unpinned()) == 2
    done = prepare_here(definition, "--out", tmp_path / "out")
    assert done.returncode == 1 and server.requests == []
    (line,) = done.stderr.splitlines()
    assert "config.json (lab/DNABERT-S), config.json (lab/esm2)" in line
    assert "--trust-unpinned" in line
    done = prepare_here(definition, "--out", tmp_path / "out", "--trust-unpinned")
    assert done.returncode == 0, done.stderr
    found = sha256(tmp_path / "published/esm2_t4/config.json")
    assert read_card(tmp_path / "out").source["esm2"].sha256["config.json"] == found
    assert found in done.stderr


def test_a_page_in_place_of_an_unpinned_file(
    server: Server, definition: Path, prepare_here: Callable[..., Any], tmp_path: Path
) -> None:
    fields = yaml.safe_load(definition.read_text())
    fields["classifier"]["sha256"] = None
    definition.write_text(yaml.safe_dump(fields))
    right = server.files["/repo/500_model.pth"]
    server.files["/repo/500_model.pth"] = b"<!doctype html><title>Log in</title>"
    done = prepare_here(definition, "--out", tmp_path / "out", "--trust-unpinned")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "500_model.pth: cannot be read as a checkpoint" in done.stderr.splitlines()[-1]
    server.files["/repo/500_model.pth"] = right
    for out in ("out", "again"):
        done = prepare_here(definition, "--out", tmp_path / out, "--trust-unpinned")
        assert done.returncode == 0, done.stderr
    asked = [path for path, _ in server.requests if path == "/repo/500_model.pth"]
    assert len(asked) == 2  # the page and the file, which is kept


SECRETS = ("s3cret", "t0ken", "s1gned", "user")
LOGIN = f"Basic {base64.b64encode(b'user:s3cret').decode()}"


@pytest.mark.parametrize("fault", ["none", "absent", "wrong", "a page", "unreachable", "offline"])
def test_no_secret_of_an_address_is_shown_or_kept(
    server: Server, definition: Path, tmp_path: Path, fault: str
) -> None:
    public = f"{server.url}/repo/500_model.pth"
    secret = public.replace("//", "//user:s3cret@") + "?token=t0ken&X-Amz-Signature=s1gned#t0ken"
    content = server.files.pop("/repo/500_model.pth")
    path = "/repo/500_model.pth?token=t0ken&X-Amz-Signature=s1gned"
    if fault != "absent":
        server.files[path] = b"<html>" if fault == "a page" else content
    fields = yaml.safe_load(definition.read_text())
    right = {"a page": None, "wrong": "0" * 64}.get(fault, sha256_of(content))
    fields["classifier"] = {"url": secret, "sha256": right}
    definition.write_text(yaml.safe_dump(fields))
    if fault == "unreachable":
        server.close()
    options = ("--trust-unpinned", "--out", tmp_path / "out", "--log", tmp_path / "log")
    environment = {"HF_HUB_OFFLINE": str(int(fault == "offline"))}
    done = prepare(server, definition, *options, HF_HUB_DISABLE_PROGRESS_BARS="0", **environment)
    assert done.returncode == (fault != "none"), done.stderr
    texts = [done.stdout, done.stderr, *map(str, tmp_path.rglob("*"))]
    texts += [file.read_text() for file in tmp_path.glob("log*")]
    if fault == "none":
        assert server.logins[0] == LOGIN
        assert read_card(tmp_path / "out").source["classifier"].origin == public
        texts.append((tmp_path / "out/bundle.json").read_text())
    texts.append(run("virnuc-rules", "models", "show", definition).stdout)
    assert public in done.stderr and public in texts[-1]
    assert not [text for text in texts if any(secret in text for secret in SECRETS)]


def test_a_card_of_an_older_version_shows_no_secret(tmp_path: Path) -> None:
    paths: dict[str, Path | None] = {**published(tmp_path)}
    prepare_bundle(customized(None, name="x", window=500, paths=paths), tmp_path / "out")
    card = tmp_path / "out/bundle.json"
    old = str(paths["classifier"])
    card.write_text(card.read_text().replace(old, "https://user:s3cret@host/a.pth?token=t0ken"))
    assert read_card(tmp_path / "out").source["classifier"].origin == "https://host/a.pth"


def test_another_number_of_parameters(server: Server, tmp_path: Path) -> None:
    paths = published(tmp_path / "published")
    sources = {name: {"path": f"published/{path.name}"} for name, path in paths.items()}
    right = read_definition(write_definition(tmp_path / "a.yaml", **sources))
    counts = {
        name: o.parameters for name, o in prepare_bundle(right, tmp_path / "a").source.items()
    }
    assert counts["classifier"] == 112 * 32 + 32 + 2 * 32 + 2 * 32 + 2
    for name in paths:
        expected = {**counts, name: counts[name] + 1}
        fields = {key: {**sources[key], "parameters": expected[key]} for key in paths}
        wrong = read_definition(write_definition(tmp_path / "b.yaml", **fields))
        with pytest.raises(ModelError) as raised:
            prepare_bundle(wrong, tmp_path / "b")
        message = str(raised.value)
        assert message.startswith(f"{paths[name]}: {counts[name]:,} parameters")
        assert f"{counts[name] + 1:,}" in message
        assert not (tmp_path / "b").exists()


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid/x: cannot be reached"):
        fetch(UrlSource(url="http://nowhere.invalid/x", sha256=None), tmp_path)
