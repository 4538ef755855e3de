"""Find the image files below a folder, and what is named as one but is none."""

import os
import pathlib
import stat
from typing import NamedTuple

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        images: Regular files with the suffix of an image, sorted by path.
        problems: The reason, by path, for each folder that cannot be read and for what
            has such a suffix but is no regular file.
    """

    images: list[pathlib.Path]
    problems: dict[pathlib.Path, str]


def find_images(root: pathlib.Path) -> Found:
    """Find the images below a folder, at any depth.

    Links to files and folders are followed. A link to a folder that contains it is a
    problem. Hidden files and folders, whose names begin with a dot, are ignored.
    """
    found = Found([], {})
    _search_folder(root, frozenset(), found)
    found.images.sort()
    return found


def _search_folder(
    folder: pathlib.Path, above: frozenset[tuple[int, int]], found: Found
):
    """Search a folder; `above` are the folders around it, by device and inode."""
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
            _search_entry(folder / name, above | {here}, found)


def _search_entry(path: pathlib.Path, above: frozenset[tuple[int, int]], found: Found):
    is_named_as_image = path.suffix.lower() in SUFFIXES
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if is_named_as_image or path.is_symlink():
            found.problems[path] = _dangling(path) or _reason(error)
        return
    if stat.S_ISDIR(mode):
        if is_named_as_image:
            found.problems[path] = "a folder with the name of an image"
        else:
            _search_folder(path, above, found)
    elif is_named_as_image and stat.S_ISREG(mode):
        found.images.append(path)
    elif is_named_as_image:
        found.problems[path] = "no regular file"


def _dangling(path: pathlib.Path) -> str:
    if not path.is_symlink():
        return ""
    target = os.readlink(path)
    return f"a link to {target}, which cannot be followed"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
