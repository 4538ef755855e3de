"""N-way K-shot tasks from images that lie sorted by class."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jmeta._typing import Key
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
        class_key, image_key, turn_key, distortion_key = jax.random.split(key, 4)
        each = self.shots + self.queries
        # the highest of some scores: as many different places, with equal chances
        draw = partial(jax.random.uniform, dtype=jnp.float32)
        classes = jax.lax.top_k(draw(class_key, self.counts.shape), self.ways)[1]
        there = jnp.arange(self.most)[None] < self.counts[classes][:, None]
        scores = jnp.where(there, draw(image_key, there.shape), -1.0)
        within = jax.lax.top_k(scores, each)[1]  # [N, K + Q]
        x = self.images[self.first[classes][:, None] + within]
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255
        if self.rotations:
            turns = jax.random.bits(turn_key, (self.ways,), jnp.uint8) % 4
            x = jax.vmap(_turn)(x, turns)
        if self.distortion:
            x = _distort(x, distortion_key, self.distortion)
        y = jnp.arange(self.ways, dtype=jnp.int32)[:, None]
        y = jnp.broadcast_to(y, x.shape[:2])
        parts = slice(None, self.shots), slice(self.shots, None)
        support, query = ((_flat(x[:, p]), _flat(y[:, p])) for p in parts)
        return Task(support=support, query=query)


def _turn(x, turns):
    """Turn images `[..., H, W, C]` by a number of quarter turns that is traced."""
    turned = [partial(jnp.rot90, k=k, axes=(-3, -2)) for k in range(4)]
    return jax.lax.switch(turns, turned, x)


def _distort(x, key, distortion):
    """Show each image `[N, K + Q, H, W, C]` through an affine map of its own.

        image(u) <- image(u + distortion * (a u + b))

    with u from -1 to 1 across the image and a [2, 2], b [2] uniform from -1 to 1.
    """
    flat = _flat(x)
    count, height, width, _ = flat.shape
    noise = jax.random.uniform(key, (count, 2, 3), jnp.float32, -1.0, 1.0)
    rows, columns = jnp.meshgrid(_across(height), _across(width), indexing="ij")
    u = jnp.stack([rows, columns, jnp.ones_like(rows)])  # [3, H, W]
    moved = u[None, :2] + distortion * jnp.einsum("nij,jhw->nihw", noise, u)
    # back to pixels: half a pixel lies between the edge and the first one's centre
    half = jnp.array([height, width], jnp.float32)[None, :, None, None] / 2
    show = partial(map_coordinates, order=1, mode="nearest")
    channels = jax.vmap(show, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(channels)(flat, (moved + 1) * half - 0.5).reshape(x.shape)


def _across(size):
    """Where the centres of the pixels lie, from -1 to 1."""
    return (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2 / size) - 1


def _flat(x):
    return x.reshape(-1, *x.shape[2:])
