"""N-way K-shot tasks from images that lie sorted by class."""

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


# compared by identity, as a function is, and so it can be jitted
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """A sampler of classification tasks: call it with a key.

    It is a pytree whose leaves are the data, so it can also be passed to a jitted
    function, which is then compiled without them.

    Attributes:
        images: All images, class after class, `[M, height, width, channels]`, uint8 or
            float32.
        first: Where in `images` each class begins, `[C]`.
        counts: How many images each class has, `[C]`.
        most: The largest of `counts`.
        ways: Classes in a task, N.
        shots: Support images of each, K.
        queries: Query images of each, Q.
        rotations: Whether each class of a task is turned by a multiple of 90 degrees.
        distortion: How far each image is distorted.
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
        """One task.

        Its classes are drawn without repetition and labelled 0 to N - 1 in the order
        in which they were drawn, and the K + Q images of each without repetition.

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
        # the highest of some scores: as many different places, with equal chances
        classes = jax.lax.top_k(class_scores, self.ways)[1]  # [N]
        places = jnp.arange(self.most, dtype=jnp.int32)
        there = places[None] < self.counts[classes][:, None]
        within = jax.lax.top_k(jnp.where(there, image_scores, -1.0), each)[1]
        chosen = self.first[classes][:, None] + within  # [N, K + Q]
        x = self._show(chosen, turns, noise)  # [N, K + Q, height, width, channels]
        y = jnp.arange(self.ways, dtype=jnp.int32)[:, None]
        y = jnp.broadcast_to(y, chosen.shape)
        parts = slice(None, self.shots), slice(self.shots, None)
        support, query = ((_flat(x[:, p]), _flat(y[:, p])) for p in parts)
        return Task(support=support, query=query)

    def _show(self, chosen, turns, noise):
        if not (self.rotations or self.distortion):
            return _as_float(self.images[chosen])
        maps = jnp.eye(2, 3, dtype=jnp.float32)[None, None]
        if self.rotations:
            maps = jnp.asarray(_TURNS)[jnp.floor(4 * turns).astype(jnp.int32)][:, None]
        if self.distortion:
            maps = maps + self.distortion * (2 * noise - 1)
        maps = jnp.broadcast_to(maps, (*chosen.shape, 2, 3))
        show = lambda each: _through_maps(self.images, *each)
        # class by class: as one computation without a loop, XLA would draw the random
        # numbers anew for every pixel, which takes ten times as long
        return jax.lax.map(show, (chosen, maps))


_TURNS = np.array(
    [
        *([[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [-1, 0, 0]]),
        *([[-1, 0, 0], [0, -1, 0]], [[0, -1, 0], [1, 0, 0]]),
    ],
    np.float32,
)
"""The affine maps of the four quarter turns."""


def _uniform(key, *shapes):
    """Uniform numbers from 0 to 1 of several shapes; one draw compiles the fastest."""
    sizes = [math.prod(shape) for shape in shapes]
    # float32: the same numbers in every precision
    drawn = jax.random.uniform(key, (sum(sizes),), jnp.float32)
    parts = jnp.split(drawn, list(itertools.accumulate(sizes[:-1])))
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _through_maps(images, chosen, maps):
    """The chosen images `[n]`, each seen through its affine map `[2, 3]`.

        seen(u) = image(map[:, :2] u + map[:, 2] * half)

    where u is a pixel's place from the middle, and half that of the edge. Between
    pixels it is bilinear; beyond the edge lie the outermost ones.
    """
    height, width = images.shape[1:3]
    middle = np.array([height - 1, width - 1], np.float32)[:, None, None] / 2
    u = np.mgrid[:height, :width].astype(np.float32) - middle  # [2, height, width]
    a = maps[..., None, None]  # [n, 2, 3, 1, 1]
    half = np.array([height, width], np.float32)[:, None, None] / 2
    # written out, since a matrix product would be rounded on accelerators
    place = a[:, :, 0] * u[0][None, None] + a[:, :, 1] * u[1][None, None]
    place = place + a[:, :, 2] * half[None] + middle[None]  # [n, 2, height, width]
    before = jnp.floor(place)

    def corner(down, right):
        row = jnp.clip(before[:, 0] + down, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(before[:, 1] + right, 0, width - 1).astype(jnp.int32)
        return _as_float(images[chosen[:, None, None], row, column])

    down, right = jnp.moveaxis((place - before)[..., None], 1, 0)
    upper = (1 - right) * corner(0, 0) + right * corner(0, 1)
    lower = (1 - right) * corner(1, 0) + right * corner(1, 1)
    return (1 - down) * upper + down * lower


def _as_float(x):
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def _flat(x):
    return x.reshape(-1, *x.shape[2:])
