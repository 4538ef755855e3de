"""Few-shot tasks from image files on disk."""

import os
import pathlib

import numpy as np

from jmeta.data import _checks
from jmeta.data._arrays import from_arrays
from jmeta.data._sampling import FewShot

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def from_folder(
    path: str | os.PathLike[str],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    size: int = 28,
    channels: int = 1,
    invert: bool = False,
    rotations: bool = False,
    distortion: float = 0.0,
) -> FewShot:
    """N-way K-shot tasks from a folder of images, read into memory.

    Every folder that holds images is a class, at any depth: mini-ImageNet's
    `train/n01532829/*.jpg` as well as Omniglot's
    `images_background/Greek/character01/*.png`. A split is a folder of its own. With
    Pillow, which comes with matplotlib.

        from_folder("omniglot/images_background", invert=True, rotations=True)
        from_folder("mini-imagenet/train", size=84, channels=3, queries=15)

    Args:
        path: The folder of the split.
        ways: Classes in a task, N.
        shots: Images of each class to adapt to, K.
        queries: Images of each class to judge by, Q.
        size: Height and width that images are resized to, in pixels.
        channels: 1 for grey, 3 for colours.
        invert: Turn black to white, for dark ink on white paper such as Omniglot's.
        rotations: As in `from_arrays`.
        distortion: As in `from_arrays`.

    Returns:
        `sample(key) -> Task`, see `FewShot`: support x of shape `[N * K, size, size,
        channels]` in float32, 0 to 1, and y `[N * K]` in int32.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: Fewer classes than `ways`; a class of fewer images than `shots +
            queries`; `channels` that are neither 1 nor 3.

    Example:
        >>> import jax, pathlib, tempfile
        >>> from PIL import Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("Greek/alpha", "Greek/beta", "Latin/a"):
        ...     (root / name).mkdir(parents=True)
        ...     for i in range(3):
        ...         Image.new("L", (105, 105)).save(root / name / f"{i}.png")
        >>> sample = from_folder(root, ways=3, shots=1, queries=2)
        >>> sample(jax.random.key(0)).query[0].shape
        (6, 28, 28, 1)
    """
    _checks.at_least_one(size=size)
    if channels not in (1, 3):
        raise ValueError(
            f"`channels` must be 1 (grey) or 3 (colours); got {channels!r}."
        )
    root = pathlib.Path(path)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        what = "has no image in it" if root.is_dir() else "is no folder"
        raise FileNotFoundError(
            f"`path` must be a folder with a folder of images for each class; {root}"
            f" {what}."
        )
    images = np.stack([_read(file, size, channels) for file in files])
    return from_arrays(
        255 - images if invert else images,
        np.array([str(file.parent.relative_to(root)) for file in files]),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        distortion=distortion,
    )


def _read(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """An image as `[size, size, channels]`, uint8."""
    from PIL import Image

    with Image.open(file) as image:
        pixels = image.convert("L" if channels == 1 else "RGB").resize((size, size))
    return np.asarray(pixels).reshape(size, size, channels)
