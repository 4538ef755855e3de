"""A key that no numbers can be drawn from, for calls that are given none."""

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

NO_KEY = "The model draws random numbers (dropout?); pass `apply_fn(..., key=key)`."


def no_key() -> jax.Array:
    """A key that can be asked for, split and folded, and that fails to give numbers.

    nnx.RNN asks its stream for a key even where its first carry is zeros, so that a key
    that is asked for is no error, but one that numbers are drawn from is.
    """
    return jax.random.key(0, impl=_NO_KEY_IMPL)


def _no_random_bits(key, bit_width, shape):
    del key, bit_width, shape
    raise ValueError(NO_KEY)


_NO_KEY_IMPL = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros((1,), jnp.uint32),
    split=lambda key, shape: jnp.broadcast_to(key, (*shape, 1)),
    random_bits=_no_random_bits,
    fold_in=lambda key, data: key,
    name="jmeta_no_key",
    tag="none",
)
