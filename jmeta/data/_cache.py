"""Files of arrays under the user's cache directory, so they are computed only once."""

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
"""The name of the entry that holds the checksum of the others."""


def folder() -> pathlib.Path:
    """The user's cache directory for jmeta, where the system has such files."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(given) / "jmeta"
    home = pathlib.Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "jmeta"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return pathlib.Path(local or home / "AppData" / "Local") / "jmeta" / "Cache"
    return home / ".cache" / "jmeta"


def load_or_make(
    name: str, names: Collection[str], make: Callable[[], Arrays]
) -> Arrays:
    """Load arrays from a file in the cache, or compute them and write the file.

    The file is written under another name and renamed, so it is always whole, even if
    several processes write it at once or one of them is killed. It holds a checksum of
    the arrays. A file that is damaged or from elsewhere is written again.

    Args:
        name: The file's name. It must differ whenever the arrays do.
        names: The names of the arrays.
        make: Computes the arrays, by name.

    Returns:
        The arrays by name.
    """
    path = folder() / name
    arrays = _read(path)
    if arrays is None or set(arrays) != set(names):
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: pathlib.Path) -> Arrays | None:
    try:
        # `np.load` leaves a file open that is no archive, so it gets an open one.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        written = arrays.pop(_CHECKSUM).item()
    except Exception:  # a damaged archive raises almost anything
        return None
    return arrays if written == _checksum(arrays) else None


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacement_of(path) as file:
            signed = arrays | {_CHECKSUM: np.array(_checksum(arrays))}
            np.savez_compressed(file, **signed)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        # On Windows a file that another process reads cannot be replaced. If it is
        # whole, that does no harm.
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
def _replacement_of(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
