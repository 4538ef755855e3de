"""Few-shot tasks from image files on disk."""

import os
import pathlib

import numpy as np

from jmeta._core import validate
from jmeta.data import _checks, _files, _pixels
from jmeta.data._arrays import from_arrays
from jmeta.data._sampling import FewShot


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

    Every folder that holds images is a class, at any depth, such as mini-ImageNet's
    `train/n01532829/*.jpg` or Omniglot's `images_background/Greek/character01/*.png`.
    Each split has a folder of its own. Links are followed. Hidden files and folders,
    such as `._x.png`, are ignored, and so are files without the suffix of an image. It
    needs Pillow, which comes with matplotlib.

        from_folder("omniglot/images_background", invert=True, rotations=True)
        from_folder("mini-imagenet/train", size=84, channels=3, queries=15)

    Args:
        path: The folder of the split.
        ways: Number of classes in a task, N.
        shots: Images of each class to adapt to, K.
        queries: Images of each class to judge by, Q.
        size: Height and width that images are resized to, in pixels.
        channels: 1 for grey, 3 for colours. Transparency is left out. Greys of 16 bits
            keep their precision; 65535 becomes 1.
        invert: Whether to swap black and white, for dark ink on white paper such as
            Omniglot's.
        rotations: Whether to turn each class of a task by a random multiple of 90
            degrees, which makes four classes of one; see `from_arrays`.
        distortion: Strength of a random affine map of each image, such as 0.1; 0 leaves
            images as they are. See `from_arrays`.

    Returns:
        A `FewShot`, `sample(key) -> Task`. The support has x of shape `[N * K, size,
        size, channels]` in float32, from 0 to 1, and y of shape `[N * K]` in int32. The
        query has Q in place of K.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: Some images cannot be read, such as damaged or empty files, or
            links that lead nowhere or back; the message names each with the reason.
            Or there are fewer classes than `ways`, fewer images of a class than `shots
            + queries`, or `channels` is neither 1 nor 3.

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
    validate.instance("path", path, (str, os.PathLike), "a folder's name or path")
    validate.count("size", size, minimum=1)
    validate.one_of("channels", channels, (1, 3))
    validate.flag("invert", invert)
    _checks.counts(ways=ways, shots=shots, queries=queries)
    root = pathlib.Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder with a folder of images for each class; {root} is"
            f" {'a file' if root.is_file() else 'no folder'}."
        )
    files, images = _read_all(root, size, channels)
    return from_arrays(
        _inverted(images) if invert else images,
        np.array([str(file.parent.relative_to(root)) for file in files]),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        distortion=distortion,
    )


def _read_all(
    root: pathlib.Path, size: int, channels: int
) -> tuple[list[pathlib.Path], np.ndarray]:
    """The files and their images `[M, size, size, channels]`, all or none of them."""
    files, problems = _files.find_images(root)
    images = []
    for file in files:
        try:
            images.append(_pixels.read_image(file, size, channels))
        except MemoryError:
            raise
        except Exception as error:  # a damaged image raises almost anything
            problems[file] = _reason(error)
    if problems:
        listed = (
            f"\n  {path.relative_to(root)}: {why}"
            for path, why in sorted(problems.items())
        )
        raise ValueError(
            f"`path` must be a folder whose images can all be read; in {root} these"
            f" cannot. Repair, move or delete them.{''.join(listed)}"
        )
    if not images:
        raise FileNotFoundError(
            f"`path` must be a folder with a folder of images for each class; {root}"
            " has no image in it."
        )
    if any(image.dtype != np.uint8 for image in images):
        images = [x / np.float32(255) if x.dtype == np.uint8 else x for x in images]
    return files, np.stack(images)


def _inverted(images: np.ndarray) -> np.ndarray:
    return 255 - images if images.dtype == np.uint8 else 1 - images


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged from its beginning on"
    return str(error).strip() or type(error).__name__
