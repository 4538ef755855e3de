"""A lock that lets one run at a time train in a directory."""

import datetime
import errno
import json
import os
import socket
import sys
import warnings
from pathlib import Path

from jmeta.train import _files

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_NAME = "fit.lock"
_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Lock:
    """The operating system's lock of the file `fit.lock`.

    It excludes other processes and other calls in this one. The system releases it when
    the process ends, also by a kill. The file says who holds the lock. It is never
    deleted: another process could then lock a new file while the old one is locked.

    Args:
        directory: The run's directory.

    Raises:
        RuntimeError: On entering, if another call trains in the directory.
        OSError: On entering, if the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def __enter__(self) -> "Lock":
        with _files.explain_os_errors(
            f"`directory` {self._directory} cannot be written"
        ):
            flags = os.O_RDWR | os.O_CREAT
            descriptor = os.open(self._directory / _NAME, flags, 0o666)
            try:
                self._acquire(descriptor)
                _write_holder(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        _held.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Close the file, which releases the lock unless another process shares it."""
        _held.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _acquire(self, descriptor: int) -> None:
        try:
            _try_lock(descriptor)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                warnings.warn(
                    f"The file system of `directory` {self._directory} has no locks:"
                    " see to it that no other call trains there.",
                    stacklevel=4,
                )
            elif error.errno in _TAKEN:
                raise RuntimeError(
                    f"`directory` {self._directory} is in use by"
                    f" {_holder(descriptor)}: two runs would write over each other."
                    " Wait until that one ends, end it, or pass another directory."
                ) from None
            else:
                raise


def _try_lock(descriptor):
    if sys.platform == "win32":
        # Windows keeps others from reading locked bytes, so the lock is on a byte
        # beyond the text that names its holder.
        os.lseek(descriptor, 2**30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_holder(descriptor):
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())
    os.fsync(descriptor)


def _holder(descriptor):
    """Who holds the lock, in words."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 4096))
        pid, host, since = holder["pid"], holder["host"], holder["since"]
    except (ValueError, KeyError, TypeError):  # the holder has not written it yet
        return "another process"
    here = (pid, host) == (os.getpid(), socket.gethostname())
    which = "this very process, " if here else ""
    return f"{which}process {pid} on {host}, since {since}"


_held: set[Lock] = set()


def _release_all():
    # A forked child shares the lock, and would keep it after a kill of its parent.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)
