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

    Classes may have unequal numbers of images. Split the classes first: make one
    sampler from the training classes, and another from the test classes.

    Args:
        images: Images `[M, height, width]` or `[M, height, width, channels]`. uint8 is
            stored as it is and scaled to 0..1 in a task; bool becomes 0 and 1; floats
            are cast to float32.
        labels: The class of each image, `[M]`: integers or strings.
        ways: Number of classes in a task, N.
        shots: Images of each class to adapt to, K.
        queries: Images of each class to judge by, Q; none of them is in the support.
        rotations: Whether to turn each class of a task by a random multiple of 90
            degrees, the same for all its images. This makes four classes of one. A task
            never has two turns of the same class, since some look alike.
        distortion: Strength of a random affine map of each image; 0 leaves images as
            they are. With 0.1 the map turns, shears and scales by up to a tenth, and
            shifts by up to a tenth of half the image. The outermost pixels are repeated
            beyond the edge.

    Returns:
        A `FewShot`, `sample(key) -> Task`. The support has x of shape `[N * K, height,
        width, channels]` in float32 and y of shape `[N * K]` in int32, class after
        class. The query has Q in place of K.

    Raises:
        ValueError: There are fewer classes than `ways`, or fewer images of a class than
            `shots + queries`; shapes do not fit; or `rotations` is set for images that
            are not square.
        TypeError: The images are integers other than uint8, or no arrays.

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
    _checks.enough_images(names, counts, ways, shots, queries)
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
    except ValueError as error:  # numpy cannot stack lists of unequal lengths
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
