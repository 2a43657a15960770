"""Unpickling what `torch.save` wrote, without running code of the file."""

import io
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from virnuc_rules.errors import ModelError, VirnucError, one_line
from virnuc_rules.files.environment import environment_named, open_regular

_NEEDED = re.compile(  # by tensors of all kinds and their containers
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|torch\.(\w+Storage|b?float\d+|Size)"
    r"|torch\._utils\._rebuild_(parameter|tensor_v2|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.serialization\._get_layout"
)
_LEGACY_PARTS = 4  # magic number, version, machine, content


class Inert:
    """Stands in for an allowed class: holds the fields of the pickle, and runs no code."""

    fields: Mapping[Any, Any] = MappingProxyType({})

    def __setstate__(self, state: Mapping[Any, Any] | None) -> None:
        self.fields = dict(state or {})


def fields(value: Any) -> Mapping[Any, Any]:
    """Return the content of a stand-in or a dict; an empty one for anything else."""
    if isinstance(value, Inert):
        return value.fields
    return value if isinstance(value, dict) else {}


def read_pickle(path: Path, classes: tuple[str, ...] = ()) -> Any:
    """Unpickle what `torch.save` wrote: tensors, containers, and an `Inert` for each of `classes`.

    Raises ModelError for any other class or function in the file, before it could run.
    """
    before = torch.serialization.get_safe_globals()  # allowed by other code in this process
    try:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(Inert, name) for name in classes])
        with environment_named(path), warnings.catch_warnings(action="ignore"):
            mapped = _check_file(path, classes)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except VirnucError:
        raise
    except Exception as error:  # a damaged file can raise anything
        text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        reason = one_line(text)[:200] or type(error).__name__
        raise ModelError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _check_file(path: Path, classes: tuple[str, ...]) -> bool:
    """Raise ModelError where torch would allocate more than the file has, or run something.

    Tell whether the file is a zip archive: torch then maps tensors, and allocates none.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        size = len(content)
        if not zipfile.is_zipfile(path):  # torch wrote none before 1.6
            largest = [_check_pickle(content, path, classes) for _ in range(_LEGACY_PARTS)][-1]
            if largest > size:
                raise ModelError(f"{path}: tensors of {largest:,} numbers in {size:,} bytes")
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if (unpacked := sum(entry.file_size for entry in entries)) > size:
                what = f"{unpacked:,} bytes in {size:,}, which torch.save never does"
                raise ModelError(f"{path}: compressed: {what}; save it again with torch.save")
            name = f"{entries[0].filename.partition('/')[0]}/data.pkl"
            _check_pickle(io.BytesIO(archive.read(name)), path, classes)
        return True


def _check_pickle(pickled: Any, path: Path, classes: tuple[str, ...]) -> int:
    """Raise ModelError if a pickle asks for more than tensors need; return its largest number.

    torch itself allows more, such as `bytearray(10**12)`.
    """
    strings, largest = [""], 0
    for operation, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, int):
            largest = max(largest, argument)
        if isinstance(argument, str):
            strings = [strings[-1], argument]
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            asked = ".".join(strings) if argument is None else str(argument).replace(" ", ".")
            if asked not in classes and not _NEEDED.fullmatch(asked):
                what = f"it asks for {one_line(asked)[:200]}, which no checkpoint needs"
                raise ModelError(f"{path}: refused: {what}")
    return largest
