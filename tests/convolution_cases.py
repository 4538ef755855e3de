"""What the tests of `matmul_convs` share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.helpers import F64_SAME, assert_trees_close

NHWC = ("NHWC", "HWIO", "NHWC")
ATOL = 1e-12  # beside entries of size 1, where products cancel


def conv(settings):
    rest = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": NHWC,
    } | settings
    return lambda x, w: lax.conv_general_dilated(x, w, **rest)


def pool(function, window_shape):
    return lambda x: function(x, window_shape, strides=window_shape)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def text(f, *args):
    return str(jax.make_jaxpr(f)(*args))


def assert_same(actual, expected):
    size = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    assert size > 0.1, "the expected numbers are too small to tell"
    assert_trees_close(actual, expected, F64_SAME, ATOL * size)
