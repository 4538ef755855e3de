"""The files of a run: their directory, writes that reach the disk, and errors."""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jmeta._core import validate

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def open_directory(directory: str | os.PathLike[str]) -> Path:
    """Make a run's directory if it is absent, and return its absolute path.

    Args:
        directory: The path that the user gave.

    Raises:
        TypeError: `directory` is no path.
        ValueError: `directory` is an empty name.
        OSError: The directory cannot be made.
    """
    validate.instance(
        *("directory", directory, (str, os.PathLike), "a path"),
        use="Pass one such as 'runs/first'.",
    )
    name = os.fspath(directory)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(
            f"`directory` must be the name of a folder; got {name!r}. Pass one such as"
            " 'runs/first', or '.' for the working directory."
        )
    path = Path(name).absolute()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"`directory` must be a folder; got {path}, which is a file. Move it out of"
            " the way, or pass another name."
        )
    with explain_os_errors(f"`directory` {path} cannot be made"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_space(directory: Path, size: int) -> None:
    """Raise if the disk has no room for a checkpoint of `size` bytes."""
    with explain_os_errors(
        f"The free space in `directory` {directory} cannot be found"
    ):
        free = shutil.disk_usage(directory).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"`directory` {directory} has {free} bytes free and a checkpoint takes"
            f" {size}. Make room, or pass another.",
        )


@contextlib.contextmanager
def explain_os_errors(
    problem: str, use: str = "Mend that and make the same call again: nothing is lost."
) -> Iterator[None]:
    """Raise an error of the file system again, with a message about the run.

    Args:
        problem: What failed, the beginning of the message.
        use: What to do, the end of the message.
    """
    try:
        yield
    except OSError as error:
        raise explained_error(problem, error, use) from error


def explained_error(problem: str, error: BaseException, use: str) -> OSError:
    """The `OSError` to raise for an error of any class, with the system's number."""
    number = _system_number(error)
    if number is not None:
        return OSError(number, f"{problem}: {os.strerror(number)}. {use}")
    # TensorStore appends all of its settings to its message.
    reason = f"{type(error).__name__}: {error}".partition(" [tensorstore_spec")[0]
    return OSError(f"{problem}: {reason}. {use}")


def write_through(path: Path, data: bytes) -> None:
    """Replace a file as a whole and flush it to the disk, or leave it as it was."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's names to the disk, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def path_in_damaged(path: Path, directory: Path) -> Path:
    """An unused path for the file `path` in the folder `damaged` of `directory`."""
    folder = directory / "damaged"
    folder.mkdir(exist_ok=True)
    number = 0
    while (folder / f"{path.name}-{number}").exists():
        number += 1
    return folder / f"{path.name}-{number}"


def _system_number(error: BaseException | None, seen: Any = ()) -> int | None:
    """The system's number of an error, of its causes or of its group's members."""
    if error is None or error in seen:
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # TensorStore gives the number only in its message.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return int(code[1])
    inner = getattr(error, "exceptions", ())
    for other in (error.__cause__, error.__context__, *inner):
        number = _system_number(other, (*seen, error))
        if number is not None:
            return number
    return None
