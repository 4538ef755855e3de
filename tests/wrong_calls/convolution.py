"""Wrong calls of `matmul_convs`."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

import jmeta
from tests.wrong_calls.table import WrongCall


def rewrite(apply_fn: Any, **options: Any):
    return lambda: jmeta.matmul_convs(apply_fn, **options)


def convolved(product: Any):
    """Call it, with a product of the user's."""
    conv = lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME")
    x = jnp.ones((1, 1, 4))
    return lambda: jmeta.matmul_convs(conv, product=product)(x, jnp.ones((1, 1, 3)))


ROWS = [
    WrongCall(
        *("matmul_convs-number", rewrite(3)),
        *(TypeError, "apply_fn", "3", "function of arrays"),
    ),
    WrongCall(
        *("matmul_convs-none", rewrite(None)),
        *(TypeError, "apply_fn", "None", "function of arrays"),
    ),
    WrongCall(
        *("matmul_convs-class", rewrite(nn.Conv)),
        *(TypeError, "apply_fn", "the class Conv", "Call it"),
    ),
    WrongCall(
        *("matmul_convs-linen", rewrite(nn.Dense(2))),
        *(TypeError, "apply_fn", "the linen module Dense", "its `.apply`"),
    ),
    WrongCall(
        *("matmul_convs-product-string", rewrite(abs, product="winograd")),
        *(TypeError, "product", "'winograd'", "function"),
    ),
    WrongCall(
        *("matmul_convs-product-arguments", rewrite(abs, product=lambda x, w: x)),
        *(TypeError, "product", "<lambda>", "3 arguments"),
    ),
    WrongCall(
        *("matmul_convs-pooling", rewrite(abs, pooling="max")),
        *(TypeError, "pooling", "'max'", "True or False"),
    ),
    WrongCall(
        *("matmul_convs-sums", rewrite(abs, sums=None)),
        *(TypeError, "sums", "None", "True or False"),
    ),
    WrongCall(
        *("matmul_convs-product-number", convolved(lambda x, w, convolution: 3)),
        *(ValueError, "product", "3", "expected shape (1, 4, 1)"),
    ),
    WrongCall(
        *("matmul_convs-product-shape", convolved(lambda x, w, convolution: x[:, 1:])),
        *(ValueError, "product", "(1, 3, 1)", "expected shape (1, 4, 1)"),
    ),
]
