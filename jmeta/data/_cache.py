"""Arrays that are computed once and kept under the user's cache directory."""

import contextlib
import hashlib
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO

import numpy as np

Arrays = dict[str, np.ndarray]

_CHECKSUM = "sha256"
"""The entry that says what the others were when they were written."""


def folder() -> pathlib.Path:
    """Where this user's programs keep what they can compute again."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(given) / "jmeta"
    home = pathlib.Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "jmeta"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return pathlib.Path(local or home / "AppData" / "Local") / "jmeta" / "Cache"
    return home / ".cache" / "jmeta"


def cached(name: str, names: Collection[str], make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a file, or those that `make` gives, which are then kept there.

    The file is written beside its place and moved there, so it is whole or not there,
    also when several processes make it at once or one of them is killed. It holds a
    checksum of the arrays: one that is damaged, or not of ours, is made again.

    Args:
        name: The file's name; it changes with whatever changes the arrays.
        names: The names of the arrays.
        make: Computes them.
    """
    path = folder() / name
    arrays = _read(path)
    if arrays is None or set(arrays) != set(names):
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: pathlib.Path) -> Arrays | None:
    try:
        # opened here: `np.load` leaves a file open that is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        written = arrays.pop(_CHECKSUM).item()
    except Exception:  # a damaged archive raises almost anything
        return None
    return arrays if written == _checksum(arrays) else None


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            signed = arrays | {_CHECKSUM: np.array(_checksum(arrays))}
            np.savez_compressed(file, **signed)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        # on Windows a file that another process reads cannot be replaced, nor need it
        if _read(path) is None:
            warnings.warn(
                f"`{path}` cannot be written ({error}), so it is computed again in each"
                " process. Set XDG_CACHE_HOME to a folder that can be written to.",
                stacklevel=4,
            )


def _checksum(arrays: Arrays) -> str:
    """A digest of names, types, shapes and contents, whatever their order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is complete."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
