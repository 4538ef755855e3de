"""A key that cannot draw numbers, for calls without a key."""

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

NO_KEY_MESSAGE = (
    "The model draws random numbers (dropout?); pass `apply_fn(..., key=key)`."
)


def no_key() -> jax.Array:
    """A key that can be split and folded, but raises when numbers are drawn from it.

    Asking a stream for a key is no error: nnx.RNN does so even where its first carry is
    zeros.
    """
    return jax.random.key(0, impl=_NO_KEY_IMPL)


def _no_random_bits(key, bit_width, shape):
    del key, bit_width, shape
    raise ValueError(NO_KEY_MESSAGE)


_NO_KEY_IMPL = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros((1,), jnp.uint32),
    split=lambda key, shape: jnp.broadcast_to(key, (*shape, 1)),
    random_bits=_no_random_bits,
    fold_in=lambda key, data: key,
    name="jmeta_no_key",
    tag="none",
)
