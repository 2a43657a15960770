"""Getting the files of a source: from the hub, a web server or this machine, checked by sha256.

An interrupted download is continued. (`hf_hub_download` no longer does that across processes, so
both kinds of download use `http_get`, on which it is built.)
"""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from virnuc_rules.bundles.checkpoints import checkpoint_files
from virnuc_rules.bundles.definition import HubSource, PathSource, UrlSource
from virnuc_rules.errors import ModelError, UnreachableError, one_line
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


def fetch(source: HubSource | UrlSource | PathSource, cache: Path) -> Fetched:
    """Return the files of a source; download files that are not in the folder `cache` yet.

    Environment: HF_ENDPOINT for a mirror of the hub, HF_HUB_OFFLINE=1 for no network at all, and
    the usual proxies. Raises UnreachableError without a network, and ModelError for a file that is
    missing or has another sha256. Files that were downloaded before an error stay in `cache`.
    """
    if isinstance(source, PathSource):
        return _local(source)
    from huggingface_hub import get_token, hf_hub_url

    if isinstance(source, UrlSource):
        parts = urlsplit(source.url)
        path = cache / parts.netloc.replace(":", "_") / parts.path.lstrip("/")
        with _locked(cache):
            return Fetched(path, {path.name: _download(source.url, path, source.sha256, {})})
    folder = cache / source.hub / source.revision
    token = get_token()  # of the logged-in user, for private repositories
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with _locked(cache):
        sha256 = {}
        for name, expected in source.files.items():
            url = hf_hub_url(source.hub, name, revision=source.revision)
            sha256[name] = _download(url, folder / name, expected, headers)
    return Fetched(folder, sha256)


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
    if path.is_file():
        sha256 = file_sha256(path)
        if expected in (None, sha256):
            return sha256
        logger.info("%s: sha256 is not that of the definition; it is downloaded again", path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if expected is None:  # two parts may be of different files, and no sha256 would show it
            partial.unlink(missing_ok=True)
        # The process may have been killed between the download and the rename.
        if not (partial.exists() and file_sha256(partial) == expected):
            with partial.open("ab") as file:
                _transfer(url, file, headers)
        sha256 = file_sha256(partial)
        if expected in (None, sha256):
            partial.replace(path)
            return sha256
        partial.unlink()
    except OSError as error:
        problem = f"{partial}: {error.strerror or error}; correct that, and run again"
        raise environment_problem(error, partial) or ModelError(problem) from None
    raise ModelError(f"{url}: expected sha256 {expected}, found {sha256}; nothing of it was kept")


def _transfer(url: str, file: IO[bytes], headers: dict[str, str]) -> None:
    """Append the missing bytes of a URL to an open file. Lost connections are tried again."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    start = file.tell()
    logger.info("%s: downloading%s", url, f", from byte {start:,}" if start else "")
    # Its warnings at every try would hide the error message at the end.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # A part of a compressed transfer would not be a part of the file.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        http_get(url, file, resume_size=start, headers=headers)  # type: ignore[arg-type]
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 416 and start:  # the file is longer than that of the URL
            file.truncate(file.seek(0))
            return _transfer(url, file, headers)
        fix = _FIXES.get(status, "try again later; the downloaded part is kept")
        raise ModelError(f"{url}: the server answers {status}: {fix}") from None
    except Exception as error:  # of many libraries below huggingface_hub
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # an error of the disk
        raise UnreachableError(f"{url}: cannot be reached ({one_line(error)})") from None


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
