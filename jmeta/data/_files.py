"""The image files below a folder, and what there is in place of one."""

import os
import pathlib
import stat
from typing import NamedTuple

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        images: Regular files that are named as images, in the order of their paths.
        problems: What is named so and is none, and what cannot be entered: the reasons
            by path.
    """

    images: list[pathlib.Path]
    problems: dict[pathlib.Path, str]


def find(root: pathlib.Path) -> Found:
    """Look for images at any depth.

    Links are followed, to files and to folders; one that leads back to a folder that it
    lies in is a problem. Hidden files and folders, whose names begin with a dot, are
    passed over.
    """
    found = Found([], {})
    _enter(root, frozenset(), found)
    found.images.sort()
    return found


def _enter(folder: pathlib.Path, above: frozenset[tuple[int, int]], found: Found):
    """Look into a folder, which lies in those `above`, by device and inode."""
    try:
        status = folder.stat()
        here = status.st_dev, status.st_ino
        if here in above:
            found.problems[folder] = "a link to a folder that it lies in"
            return
        names = sorted(os.listdir(folder))
    except OSError as error:
        found.problems[folder] = _reason(error)
        return
    for name in names:
        if not name.startswith("."):
            _look_at(folder / name, above | {here}, found)


def _look_at(path: pathlib.Path, above: frozenset[tuple[int, int]], found: Found):
    is_named_so = path.suffix.lower() in SUFFIXES
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if is_named_so or path.is_symlink():
            found.problems[path] = _dangling(path) or _reason(error)
        return
    if stat.S_ISDIR(mode):
        if is_named_so:
            found.problems[path] = "a folder with the name of an image"
        else:
            _enter(path, above, found)
    elif is_named_so and stat.S_ISREG(mode):
        found.images.append(path)
    elif is_named_so:
        found.problems[path] = "no regular file"


def _dangling(path: pathlib.Path) -> str:
    if not path.is_symlink():
        return ""
    target = os.readlink(path)
    return f"a link to {target}, which cannot be followed"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
