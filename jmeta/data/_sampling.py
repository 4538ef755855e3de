"""N-way K-shot tasks from images that are sorted by class."""

import dataclasses
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jmeta._core import validate
from jmeta._core.typing import Key
from jmeta.tasks import Task

static = partial(dataclasses.field, metadata={"static": True})


# `eq=False` compares by identity, as functions are, so that `jax.jit` takes it.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """A sampler of classification tasks: call it with a key.

    It is a pytree whose leaves are the data. Pass it to a jitted function as an
    argument to keep the data out of the compiled program.

    Attributes:
        images: All images, class after class, `[M, height, width, channels]`, uint8 or
            float32.
        first: The index in `images` of each class's first image, `[C]`.
        counts: The number of images of each class, `[C]`.
        most: The largest of `counts`.
        ways: Number of classes in a task, N.
        shots: Support images of each class, K.
        queries: Query images of each class, Q.
        rotations: Whether each class of a task is turned by a multiple of 90 degrees.
        distortion: Strength of the random affine map of each image; 0 for none.
    """

    images: jax.Array
    first: jax.Array
    counts: jax.Array
    most: int = static()
    ways: int = static()
    shots: int = static()
    queries: int = static()
    rotations: bool = static()
    distortion: float = static()

    def __call__(self, key: Key) -> Task:
        """Draw one task.

        Its classes are drawn without repetition and labelled 0 to N - 1 in the order of
        drawing. The K + Q images of each class are drawn without repetition too.

        Args:
            key: PRNG key, consumed.

        Returns:
            A task with support x `[N * K, height, width, channels]`, float32, and y
            `[N * K]`, int32; the query has Q in place of K.
        """
        validate.key("key", key)
        each = self.shots + self.queries
        class_scores, image_scores, turns, noise = _uniform(
            *(key, self.counts.shape, (self.ways, self.most), (self.ways,)),
            (self.ways, each, 2, 3) if self.distortion else (0,),
        )
        # The indices of the highest random scores are distinct, and equally likely.
        classes = jax.lax.top_k(class_scores, self.ways)[1]  # [N]
        positions = jnp.arange(self.most, dtype=jnp.int32)
        exists = positions[None] < self.counts[classes][:, None]
        within = jax.lax.top_k(jnp.where(exists, image_scores, -1.0), each)[1]
        chosen = self.first[classes][:, None] + within  # [N, K + Q]
        x = self._look_up(chosen, turns, noise)  # [N, K + Q, height, width, channels]
        y = jnp.arange(self.ways, dtype=jnp.int32)[:, None]
        y = jnp.broadcast_to(y, chosen.shape)
        parts = slice(None, self.shots), slice(self.shots, None)
        merged = _merge_first_axes
        support, query = ((merged(x[:, p]), merged(y[:, p])) for p in parts)
        return Task(support=support, query=query)

    def _look_up(self, chosen, turns, noise):
        """The chosen images `[N, K + Q]`, turned and distorted."""
        if not (self.rotations or self.distortion):
            return _as_float(self.images[chosen])
        maps = jnp.eye(2, 3, dtype=jnp.float32)[None, None]
        if self.rotations:
            quarters = jnp.floor(4 * turns).astype(jnp.int32)
            maps = jnp.asarray(_QUARTER_TURNS)[quarters][:, None]
        if self.distortion:
            maps = maps + self.distortion * (2 * noise - 1)
        maps = jnp.broadcast_to(maps, (*chosen.shape, 2, 3))
        of_one_class = lambda args: _apply_affine_maps(self.images, *args)
        # The loop over classes is for speed. Without it, XLA draws the random numbers
        # anew for every pixel, which takes ten times as long.
        return jax.lax.map(of_one_class, (chosen, maps))


_QUARTER_TURNS = np.array(
    [
        *([[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [-1, 0, 0]]),
        *([[-1, 0, 0], [0, -1, 0]], [[0, -1, 0], [1, 0, 0]]),
    ],
    np.float32,
)
"""The affine maps of zero to three quarter turns, `[4, 2, 3]`."""


def _uniform(key, *shapes):
    """Uniform numbers from 0 to 1 of several shapes, in one draw to compile fast."""
    sizes = [math.prod(shape) for shape in shapes]
    # With float32, a task is the same whether x64 is on or off.
    drawn = jax.random.uniform(key, (sum(sizes),), jnp.float32)
    parts = jnp.split(drawn, list(itertools.accumulate(sizes[:-1])))
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _apply_affine_maps(images, chosen, maps):
    """The chosen images `[n]`, each through its affine map `[2, 3]`.

        mapped(u) = image(map[:, :2] u + map[:, 2] * half)

    where u is a pixel's position from the middle, and half the position of the edge.
    Interpolation is bilinear, and the outermost pixels are repeated beyond the edge.
    """
    height, width = images.shape[1:3]
    middle = np.array([height - 1, width - 1], np.float32)[:, None, None] / 2
    u = np.mgrid[:height, :width].astype(np.float32) - middle  # [2, height, width]
    a = maps[..., None, None]  # [n, 2, 3, 1, 1]
    half = np.array([height, width], np.float32)[:, None, None] / 2
    # Accelerators round the inputs of a matrix product, so it is written out.
    source = a[:, :, 0] * u[0][None, None] + a[:, :, 1] * u[1][None, None]
    source = source + a[:, :, 2] * half[None] + middle[None]  # [n, 2, height, width]
    before = jnp.floor(source)

    def corner(down, right):
        row = jnp.clip(before[:, 0] + down, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(before[:, 1] + right, 0, width - 1).astype(jnp.int32)
        return _as_float(images[chosen[:, None, None], row, column])

    down, right = jnp.moveaxis((source - before)[..., None], 1, 0)
    upper = (1 - right) * corner(0, 0) + right * corner(0, 1)
    lower = (1 - right) * corner(1, 0) + right * corner(1, 1)
    return (1 - down) * upper + down * lower


def _as_float(x):
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def _merge_first_axes(x):
    return x.reshape(-1, *x.shape[2:])
