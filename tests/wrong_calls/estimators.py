"""Wrong calls of `es_value_and_grad`."""

from typing import Any

import jax
import jax.numpy as jnp

import jmeta
from tests.wrong_calls.table import WrongCall

POINT = jnp.ones(2)
KEY = jax.random.key(0)


def square(w):
    return jnp.sum(w**2)


def es(fn: Any = square, params: Any = POINT, key: Any = KEY, **kwargs: Any):
    options: Any = {"sigma": 0.1, "samples": 2, **kwargs}
    return jmeta.es_value_and_grad(fn, **options)(params, key=key)


ROWS = [
    WrongCall(
        *("es_value_and_grad-array", lambda: es(POINT)),
        *(TypeError, "fn", "an array of shape (2,)", "Pass `fn(params, *args)`"),
    ),
    WrongCall(
        *("es_value_and_grad-two-arguments", lambda: es(lambda w, x: w)),
        *(TypeError, "fn", "(w, x)", "functools.partial"),
    ),
    WrongCall(
        *("es_value_and_grad-pair", lambda: es(lambda w: (w.sum(), w))),
        *(TypeError, "fn", "a tuple", "Leave out"),
    ),
    WrongCall(
        *("es_value_and_grad-none", lambda: es(lambda w: None)),
        *(TypeError, "fn", "None", "scalar"),
    ),
    WrongCall(
        *("es_value_and_grad-string-result", lambda: es(lambda w: "a")),
        *(TypeError, "fn's result", "'a'", "arrays"),
    ),
    WrongCall(
        *("es_value_and_grad-vector", lambda: es(lambda w: w)),
        *(ValueError, "fn", "an array of shape (2,)", ".mean()"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-string", lambda: es(sigma="a")),
        *(TypeError, "sigma", "'a'", "standard deviation"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-none", lambda: es(sigma=None)),
        *(TypeError, "sigma", "None", "a number"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-zero", lambda: es(sigma=0)),
        *(ValueError, "sigma", "0", "above 0"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-negative", lambda: es(sigma=-0.5)),
        *(ValueError, "sigma", "-0.5", "above 0"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-nan", lambda: es(sigma=float("nan"))),
        *(ValueError, "sigma", "nan", "above 0"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-infinite", lambda: es(sigma=jnp.array(jnp.inf))),
        *(ValueError, "sigma", "inf", "at most"),
    ),
    WrongCall(
        *("es_value_and_grad-sigma-vector", lambda: es(sigma=POINT)),
        *(ValueError, "sigma", "an array of shape (2,)", "single number"),
    ),
    WrongCall(
        *("es_value_and_grad-samples-string", lambda: es(samples="4")),
        *(TypeError, "samples", "'4'", "random directions"),
    ),
    WrongCall(
        *("es_value_and_grad-samples-float", lambda: es(samples=10.5)),
        *(TypeError, "samples", "10.5", "Python integer"),
    ),
    WrongCall(
        *("es_value_and_grad-samples-zero", lambda: es(samples=0)),
        *(ValueError, "samples", "0", "at least 1"),
    ),
    WrongCall(
        *("es_value_and_grad-method-string", lambda: es(method="antithetic")),
        *(TypeError, "method", "'antithetic'", "jmeta.Antithetic()"),
    ),
    WrongCall(
        *("es_value_and_grad-method-class", lambda: es(method=jmeta.Naive)),
        *(TypeError, "method", "the class Naive", "jmeta.Naive()"),
    ),
    WrongCall(
        *("es_value_and_grad-method-none", lambda: es(method=None)),
        *(TypeError, "method", "None", "jmeta.ForwardDifference()"),
    ),
    WrongCall(
        *("es_value_and_grad-chunk_size-string", lambda: es(chunk_size="2")),
        *(TypeError, "chunk_size", "'2'", "divides `samples`"),
    ),
    WrongCall(
        *("es_value_and_grad-chunk_size-three", lambda: es(chunk_size=3)),
        *(ValueError, "chunk_size", "3", "must divide `samples`=2"),
    ),
    WrongCall(
        *("es_value_and_grad-integer-key", lambda: es(key=7)),
        *(TypeError, "key", "7", "jax.random.key(0)"),
    ),
    WrongCall(
        *("es_value_and_grad-key-none", lambda: es(key=None)),
        *(TypeError, "key", "None", "jax.random.key(0)"),
    ),
    WrongCall(
        *("es_value_and_grad-params-none", lambda: es(params=None)),
        *(TypeError, "params", "None", "float"),
    ),
    WrongCall(
        *("es_value_and_grad-params-integers", lambda: es(params=jnp.arange(2))),
        *(TypeError, "params", "dtype int", "further argument of `fn`"),
    ),
    WrongCall(
        *("es_value_and_grad-params-complex", lambda: es(params=POINT.astype(complex))),
        *(TypeError, "params", "dtype complex", "real and imaginary parts"),
    ),
]
