"""Getting the files of a source: from the hub, a web server or this machine, checked by sha256.

An interrupted download is continued. (`hf_hub_download` no longer does that across processes, so
both kinds of download use `http_get`, on which it is built.)

The downloads of a source are in a folder of the cache that is named by its whole address and all
expected sha256. A file without one may be anything, such as the page of a login: it is used again
only after `accept`, which is called once it was converted. No log or message has a password or
token of an address.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from rich.filesize import decimal

from virnuc_rules.bundles.checkpoints import checkpoint_files
from virnuc_rules.bundles.definition import Definition, HubSource, PathSource, UrlSource
from virnuc_rules.errors import ModelError, UnreachableError, one_line, without_secrets
from virnuc_rules.files.atomic import file_sha256
from virnuc_rules.files.environment import environment_problem

logger = logging.getLogger("virnuc_rules")
_FIXES = {
    404: "the file does not exist; check the address in the definition",
    401: "it is private; log in with `hf auth login` if it is on the hub",
    403: "you have no access; log in with `hf auth login` if it is on the hub",
}


class Fetched(NamedTuple):
    """The files of a source on this machine."""

    path: Path  # a folder (hub), or a file (url); either (path)
    sha256: dict[str, str]  # of each file, by its name

    def accept(self, name: str) -> None:
        """Use a downloaded file again from now on, although its sha256 was not known before."""
        path = self.path / name if self.path.is_dir() else self.path
        with contextlib.suppress(OSError):  # else it is downloaded again
            _accepted(path).write_text(self.sha256[name])


def fetch(source: HubSource | UrlSource | PathSource, cache: Path) -> Fetched:
    """Return the files of a source; download files that are not in the folder `cache` yet.

    Environment: HF_ENDPOINT for a mirror of the hub, HF_HUB_OFFLINE=1 for no network at all, and
    the usual proxies. Raises UnreachableError without a network, and ModelError for a file that is
    missing or has another sha256. Files that were downloaded before an error stay in `cache`.
    """
    if isinstance(source, PathSource):
        return _local(source)
    from huggingface_hub import get_token

    folder = _folder(source, cache)
    token = get_token()  # of the logged-in user, for private repositories
    is_private = isinstance(source, HubSource) and token
    headers = {"authorization": f"Bearer {token}"} if is_private else {}
    with _locked(cache):
        sha256 = {
            name: _download(url, folder / name, source.files[name], headers)
            for name, url in _addresses(source).items()
        }
    return Fetched(folder if isinstance(source, HubSource) else folder / next(iter(sha256)), sha256)


def needed(definition: Definition, cache: Path) -> Iterator[str]:
    """Describe each file of sources that are not in the cache: address, size, option for a copy."""
    for network, source in definition.sources.items():
        if isinstance(source, PathSource):
            continue
        folder, addresses = _folder(source, cache), _addresses(source)
        if all(_known_sha256(folder / name, source.files[name]) for name in addresses):
            continue
        size = decimal(source.bytes) if source.bytes else "unknown size"
        if len(addresses) > 1:
            size += f" in {len(addresses)} files"
        is_hub = isinstance(source, HubSource)
        option = f"--{network.replace('_', '-')} {'FOLDER' if is_hub else 'FILE'}"
        copy = f"or a copy by `models prepare {option}`" + ", or HF_ENDPOINT, a mirror" * is_hub
        yield from (f"{without_secrets(url)} ({size}), {copy}" for url in addresses.values())


def _addresses(source: HubSource | UrlSource) -> dict[str, str]:
    """Return the address of each file by its name; those of the hub may be of a mirror."""
    from huggingface_hub import hf_hub_url

    if isinstance(source, UrlSource):
        return dict.fromkeys(source.files, source.url)
    return {name: hf_hub_url(source.hub, name, revision=source.revision) for name in source.files}


def _folder(source: HubSource | UrlSource, cache: Path) -> Path:
    """Return the folder of a source's downloads."""
    address = f"{source.hub}@{source.revision}" if isinstance(source, HubSource) else source.url
    key = hashlib.sha256(json.dumps([address, source.files]).encode()).hexdigest()[:16]
    return cache / f"{Path(source.origin).name[:100]}-{key}"


def _accepted(path: Path) -> Path:
    """Return the file with the sha256 of one that was accepted."""
    return path.with_name(f".{path.name}.accepted")


def _known_sha256(path: Path, expected: str | None) -> str | None:
    """Return the sha256 that a file in the cache must have to be used; None: it is not used."""
    if not path.is_file():
        return None
    marker = _accepted(path)
    return expected or (marker.read_text(errors="replace") if marker.is_file() else None)


def _local(source: PathSource) -> Fetched:
    paths = checkpoint_files(source.path) if source.path.is_dir() else [source.path]
    try:
        sha256 = {path.name: file_sha256(path) for path in paths}
    except OSError as error:
        problem = f"{source.path}: cannot be read ({error.strerror or error})"
        raise environment_problem(error) or ModelError(problem) from None
    for name, expected in source.sha256.items():
        if name not in sha256:
            raise ModelError(f"{source.path}: {name}: not among the files that are read")
        if sha256[name] != expected:
            raise ModelError(
                f"{source.path}: {name}: expected sha256 {expected}, found {sha256[name]}; "
                "take the right file, or correct the definition"
            )
    return Fetched(source.path, sha256)


def _download(url: str, path: Path, expected: str | None, headers: dict[str, str]) -> str:
    """Download `path` if it is missing or has another sha256; return its sha256.

    An incomplete file is `<name>.partial`; it is renamed when its sha256 is correct.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        if known := _known_sha256(path, expected):
            sha256 = file_sha256(path)
            if sha256 == known:
                return sha256
            logger.info("%s: its sha256 is not %s; it is downloaded again", path, known)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if expected is None:  # two parts may be of different files, and no sha256 would show it
            partial.unlink(missing_ok=True)
        # The process may have been killed between the download and the rename.
        if not (partial.exists() and file_sha256(partial) == expected):
            with partial.open("ab") as file:
                _transfer(url, file, path.name, headers)
        sha256 = file_sha256(partial)
        if expected in (None, sha256):
            partial.replace(path)
            return sha256
        partial.unlink()
    except OSError as error:
        problem = f"{partial}: {error.strerror or error}; correct that, and run again"
        raise environment_problem(error, partial) or ModelError(problem) from None
    found = f"expected sha256 {expected}, found {sha256}; nothing of it was kept"
    raise ModelError(f"{without_secrets(url)}: {found}")


def _transfer(url: str, file: IO[bytes], name: str, headers: dict[str, str]) -> None:
    """Append the missing bytes of a URL to an open file. Lost connections are tried again."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    start, shown = file.tell(), without_secrets(url)
    logger.info("%s: downloading%s", shown, f", from byte {start:,}" if start else "")
    # Its warnings at every try would hide the error message at the end.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # A part of a compressed transfer would not be a part of the file.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        # By the name: the progress bar would show the end of the address.
        http_get(url, file, resume_size=start, headers=headers, displayed_filename=name)  # type: ignore[arg-type]
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 416 and start:  # the file is longer than that of the URL
            file.truncate(file.seek(0))
            return _transfer(url, file, name, headers)
        fix = _FIXES.get(status, "try again later; the downloaded part is kept")
        raise ModelError(f"{shown}: the server answers {status}: {fix}") from None
    except Exception as error:  # of many libraries below huggingface_hub
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # an error of the disk
        reason = without_secrets(one_line(error))
        raise UnreachableError(f"{shown}: cannot be reached ({reason})") from None


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Prevent two processes from writing the same partial file; raises ModelError in the second."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / ".lock").open("w")
    except OSError as error:
        problem = f"{cache}: {error.strerror}; choose another --cache"
        raise environment_problem(error) or ModelError(problem) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"{cache}: another process is downloading; wait for it") from None
        except OSError:  # a filesystem without locks: the sha256 is still checked
            pass
        yield
