"""The manifest of a checkpoint, which tells damage from trouble in reading.

It lists every file of a checkpoint with its size and checksum, and the settings of the
run. It is written before the checkpoint gets its name. A checkpoint is damaged if it
has no manifest or other bytes than listed. An error of the system while reading does
not make it damaged.
"""

import json
import os
import zlib
from pathlib import Path

from jmeta.train import _files

_NAME = "manifest-of-fit.json"
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Damaged(Exception):
    """The content of a checkpoint is not what was written."""


def write(folder: Path, settings: dict[str, str]) -> None:
    """Write the manifest of the files in a folder, and flush all to the disk.

    Args:
        folder: The folder of a checkpoint.
        settings: The settings of the run, by name.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _files.sync_folder(path)
        else:
            files[path.relative_to(folder).as_posix()] = _size_and_checksum(path, True)
    body = json.dumps({"files": files, "settings": settings}).encode()
    _files.write_through(folder / _NAME, b"%08x\n" % zlib.crc32(body) + body)


def check(folder: Path) -> dict[str, str]:
    """Compare the files in a folder with the manifest.

    Returns:
        The settings of the run, by name.

    Raises:
        Damaged: A file is missing, or has other bytes than listed.
        OSError: The file system cannot read it now.
    """
    try:
        checksum, _, body = (folder / _NAME).read_bytes().partition(b"\n")
    except _GONE:
        # Raise if a folder above is missing: that says nothing about its content.
        os.listdir(folder.parent.parent)
        raise Damaged(f"it has no {_NAME}") from None
    if checksum != b"%08x" % zlib.crc32(body):
        raise Damaged(f"the checksum of its {_NAME} differs")
    manifest = json.loads(body)
    for name, expected in manifest["files"].items():
        try:
            found = _size_and_checksum(folder / name, False)
        except _GONE:
            raise Damaged(f"its file {name} is missing") from None
        if found != expected:
            raise Damaged(
                f"its file {name} has size and checksum {found}, not {expected}"
            )
    return manifest["settings"]


def _size_and_checksum(path: Path, sync: bool) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
        if sync:
            os.fsync(file.fileno())
    return [size, checksum]
