"""Few-shot tasks from images and labels in memory."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jmeta._core import validate
from jmeta.data import _checks
from jmeta.data._sampling import FewShot


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    rotations: bool = False,
    distortion: float = 0.0,
) -> FewShot:
    """N-way K-shot tasks from images with class labels.

    Classes may have unequal numbers of images. Split by class before: pass the images
    of the training classes for one sampler, those of the test classes for another.

    Args:
        images: `[M, height, width]` or `[M, height, width, channels]`. uint8 is kept as
            it is and scaled to 0..1 when drawn; bool becomes 0 and 1; floats are taken
            as they are, in float32.
        labels: `[M]`, whatever tells the classes apart: integers or strings.
        ways: Classes in a task, N.
        shots: Images of each class to adapt to, K.
        queries: Images of each class to judge by, Q; none of them is in the support.
        rotations: Turn each class of a task by a random multiple of 90 degrees, the
            same for all its images, which makes four classes of one. Two turns of the
            same class are never in one task, since an O has only one.
        distortion: Show each image through a random affine map. With 0.1 it turns,
            shears and scales by up to a tenth, and shifts by up to a tenth of half the
            image. The outermost pixels fill what comes in.

    Returns:
        `sample(key) -> Task`, see `FewShot`: support x of shape `[N * K, height, width,
        channels]` in float32 and y `[N * K]` in int32, class after class; the query
        with Q in place of K.

    Raises:
        ValueError: Fewer classes than `ways`; a class of fewer images than `shots +
            queries`; shapes that do not fit; `rotations` of images that are not square.
        TypeError: Integers that are not uint8, or no arrays.

    Example:
        >>> import jax, numpy as np
        >>> digits = np.zeros((100, 8, 8)), np.arange(100) % 10
        >>> sample = from_arrays(*digits, ways=3, shots=2, queries=4)
        >>> task = sample(jax.random.key(0))
        >>> task.support[0].shape, task.query[1].tolist()
        ((6, 8, 8, 1), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    """
    _checks.counts(ways=ways, shots=shots, queries=queries)
    validate.flag("rotations", rotations)
    _checks.distortion(distortion)
    pixels, targets = _as_pixels(_array("images", images)), _array("labels", labels)
    if targets.shape != (len(pixels),):
        raise ValueError(
            f"`labels` must have one entry for each of the {len(pixels)} images; got"
            f" shape {targets.shape}."
        )
    if rotations and pixels.shape[1] != pixels.shape[2]:
        raise ValueError(
            "`rotations` needs square images; got"
            f" {pixels.shape[1]} by {pixels.shape[2]}. Crop or pad them."
        )
    names, counts = np.unique(targets, return_counts=True)
    _checks.enough(names, counts, ways, shots, queries)
    return FewShot(
        images=jnp.asarray(pixels[np.argsort(targets, kind="stable")]),
        first=jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        counts=jnp.asarray(counts, jnp.int32),
        most=int(counts.max()),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        distortion=distortion,
    )


def _array(name: str, value: Any) -> np.ndarray:
    use = "Pass arrays of one shape, stacked: `np.stack(images)`."
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(
            f"`{name}` must be an array; got {validate.kind(value)} of unequal shapes."
            f" {use}"
        ) from error
    if array.dtype == object:
        raise TypeError(f"`{name}` must be an array; got {validate.kind(value)}. {use}")
    return array


def _as_pixels(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(
            "`images` must be [M, height, width] or [M, height, width, channels]; got"
            f" shape {images.shape}."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool or jnp.issubdtype(images.dtype, jnp.floating):
        return images.astype(np.float32)
    raise TypeError(
        f"`images` must be uint8, bool or floats; got {images.dtype}, whose largest"
        " value has no meaning known here. Divide by it."
    )
