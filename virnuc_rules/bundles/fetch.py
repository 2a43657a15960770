"""Getting the files of a source: from the hub, a web server or this machine, checked by sha256.

A download that was interrupted goes on where it stopped. (`hf_hub_download` cannot do that across
processes any more, so both kinds of download are made with `http_get`, which it is built on.)
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
from virnuc_rules.errors import ModelError, UnreachableError
from virnuc_rules.files.atomic import file_sha256

logger = logging.getLogger("virnuc_rules")
_FIXES = {
    404: "there is no such file; check the address in the definition",
    401: "it is private; log in with `hf auth login` if it is on the hub",
    403: "you may not have it; log in with `hf auth login` if it is on the hub",
}


class Fetched(NamedTuple):
    """Files of a source on this machine."""

    path: Path  # a folder (hub), or a file (url); either (path)
    sha256: dict[str, str]  # of each file, by its name


def fetch(source: HubSource | UrlSource | PathSource, cache: Path) -> Fetched:
    """Return the files of a source; download into the folder `cache` what is not there yet.

    Environment: HF_ENDPOINT for a mirror of the hub, HF_HUB_OFFLINE=1 for no network at all, and
    the usual proxies. Raises UnreachableError without a network, and ModelError for a file that is
    not there or has not the sha256 that it must have. What was downloaded before an error stays.
    """
    if isinstance(source, PathSource):
        return _local(source)
    from huggingface_hub import get_token, hf_hub_url

    if isinstance(source, UrlSource):
        parts = urlsplit(source.url)
        path = cache / parts.netloc.replace(":", "_") / parts.path.lstrip("/")
        with _locked(cache):
            found = _download(source.url, path, source.sha256, {})
        return Fetched(path, {path.name: found})
    folder = cache / source.hub / source.revision
    token = get_token()  # of who is logged in, for private repositories
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with _locked(cache):
        sha256 = {
            name: _download(
                hf_hub_url(source.hub, name, revision=source.revision),
                folder / name,
                expected,
                headers,
            )
            for name, expected in source.files.items()
        }
    return Fetched(folder, sha256)


def _local(source: PathSource) -> Fetched:
    paths = checkpoint_files(source.path) if source.path.is_dir() else [source.path]
    try:
        found = {path.name: file_sha256(path) for path in paths}
    except OSError as error:
        raise ModelError(f"{source.path}: cannot be read ({error.strerror})") from None
    for name, expected in source.sha256.items():
        if name not in found:
            raise ModelError(f"{source.path}: {name}: not among the files that are read")
        if found[name] != expected:
            raise ModelError(
                f"{source.path}: {name}: expected sha256 {expected}, found {found[name]}; "
                "take the right file, or mend the definition"
            )
    return Fetched(source.path, found)


def _download(url: str, path: Path, expected: str | None, headers: dict[str, str]) -> str:
    """Make sure that `path` is there and right; return its sha256.

    Only a file that is whole and right gets its name; what is on its way is `<name>.partial`.
    """
    if path.is_file():
        found = file_sha256(path)
        if expected in (None, found):
            return found
        logger.info("%s: sha256 is not that of the definition; it is downloaded again", path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if expected is None:  # nothing would tell whether two parts belong to one file
            partial.unlink(missing_ok=True)
        # One that is whole already was killed just before it got its name.
        if not (partial.exists() and file_sha256(partial) == expected):
            with partial.open("ab") as file:
                _transfer(url, file, headers)
        found = file_sha256(partial)
        if expected in (None, found):
            partial.replace(path)
            return found
        partial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(f"{partial}: {reason}; mend that, and run the same again") from None
    raise ModelError(f"{url}: expected sha256 {expected}, found {found}; nothing of it was kept")


def _transfer(url: str, file: IO[bytes], headers: dict[str, str]) -> None:
    """Append to an open file what it has not yet of a URL. Lost connections are tried again."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    start = file.tell()
    logger.info("%s: downloading%s", url, f", from byte {start:,}" if start else "")
    # Its warnings at every try would hide the one line at the end that says what to do.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Compressed on the way, a part of the bytes would not be a part of the file.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        http_get(url, file, resume_size=start, headers=headers)  # type: ignore[arg-type]
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 416 and start:  # there is more in the file than at the URL
            file.truncate(file.seek(0))
            return _transfer(url, file, headers)
        fix = _FIXES.get(status, "try again later; what is there already is kept")
        raise ModelError(f"{url}: the server answers {status}: {fix}") from None
    except Exception as error:  # many kinds, of a library below the library
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise  # of the disk
        reason = " ".join(str(error).split())
        raise UnreachableError(f"{url}: cannot be reached ({reason})") from None


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Keep two processes from writing to the same partial file; raise ModelError in the second."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / ".lock").open("w")
    except OSError as error:
        raise ModelError(f"{cache}: {error.strerror}; choose another --cache") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"{cache}: another process is downloading; wait for it") from None
        except OSError:  # a filesystem without locks: the sha256 still tells
            pass
        yield
