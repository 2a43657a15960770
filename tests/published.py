"""Small checkpoints in the published formats, and a web server to fetch them from."""

import argparse
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import yaml
from esm.model.esm2 import ESM2
from harness import BUNDLE
from safetensors.torch import load_file, save_file

REVISION = "0123456789abcdef0123456789abcdef01234567"


def published(folder: Path) -> dict[str, Path]:
    """Write the networks of the tests' bundle as their authors would publish them."""
    card = json.loads((BUNDLE / "bundle.json").read_text())
    dnabert_s, esm2 = folder / "DNABERT-S", folder / "esm2_t4"
    for network, settings in ((dnabert_s, card["dnabert_s"]), (esm2, card["esm2"])):
        network.mkdir(parents=True)
        rotary = {"position_embedding_type": "rotary", "token_dropout": True}
        settings = {**settings, "layer_norm_eps": 1e-5, **rotary} if network == esm2 else settings
        (network / "config.json").write_text(json.dumps(settings))
    shutil.copy(BUNDLE / "tokenizer.json", dnabert_s)
    torch.save(load_file(BUNDLE / "dnabert_s.safetensors"), dnabert_s / "pytorch_model.bin")
    weights = load_file(BUNDLE / "esm2.safetensors")
    weights.pop("encoder.inv_freq", None)  # of ours: computed where a file has none
    save_file(weights, esm2 / "model.safetensors")
    torch.save(load_file(BUNDLE / "classifier.safetensors"), folder / "500_model.pth")
    return {"dnabert_s": dnabert_s, "esm2": esm2, "classifier": folder / "500_model.pth"}


def write_fair_esm(path: Path, width: int = 64, seed: int = 1, **more: Any) -> Path:
    """Write a random ESM-2 of the bundle's shape as fair-esm publishes its own: in float16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ESM2(num_layers=4, embed_dim=width, attention_heads=4)
    cfg = argparse.Namespace(
        encoder_layers=4, encoder_embed_dim=width, encoder_attention_heads=4, token_dropout=True
    )
    heads = ("lm_head", "contact_head")
    weights = {
        name if name.startswith(heads) else f"sentence_encoder.{name}": tensor.half()
        for name, tensor in network.state_dict().items()
        if not name.startswith("contact_head")
    }
    weights = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    torch.save({"cfg": {"model": cfg, **more}, "model": weights}, path)
    return path


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hub_source(hub: str, folder: Path) -> dict[str, Any]:
    """The source of a definition, for a folder that a server has at the hub's address of it."""
    files = {path.name: sha256_of(path.read_bytes()) for path in folder.iterdir()}
    return {"hub": hub, "revision": REVISION, "files": files}


def write_definition(path: Path, **fields: Any) -> Path:
    fields = {"name": path.stem, "description": "For tests.", "window": 500, **fields}
    path.write_text(yaml.safe_dump(fields))
    return path


class Server:
    """Serves `files` by path, and notes what it was asked for: (path, Range header)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.logins: list[str | None] = []  # what they had in place of a password
        self.encodings: list[str | None] = []  # that it might have compressed the answers with
        self.ranges = True  # False: a server that ignores Range and sends all
        self.cut: int | None = None  # bytes after which a connection is lost; then it answers 503
        self.hold = threading.Event()  # what a connection that is cut waits for
        self.hold.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def add_hub(self, hub: str, folder: Path) -> None:
        """Serve a folder as the hub does: by commit, with a redirect to where the bytes are."""
        for path in folder.iterdir():
            self.redirects[f"/{hub}/resolve/{REVISION}/{path.name}"] = f"/cdn/{hub}/{path.name}"
            self.files[f"/cdn/{hub}/{path.name}"] = path.read_bytes()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path, request.headers["Range"]
        self.requests.append((path, wanted))
        self.encodings.append(request.headers["Accept-Encoding"])
        self.logins.append(request.headers["Authorization"])
        if path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[path])
            request.end_headers()
            return
        if path not in self.files:
            request.send_error(404)
            return
        if self.cut == 0:
            request.send_error(503)
            return
        content = self.files[path]
        start = (
            int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        )
        if start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            whole = len(content)
            request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start : self.cut])
        if self.cut is not None:
            request.wfile.flush()
            self.cut = 0
            self.hold.wait(300)

    def close(self) -> None:
        self.hold.set()
        self.http.shutdown()
        self.http.server_close()
