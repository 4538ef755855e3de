"""Evolution strategies estimate the smoothed function and its gradient, unbiased."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Antithetic, ForwardDifference, Naive, es_value_and_grad
from tests.helpers import F64_SAME, assert_trees_close

METHODS = [Antithetic(), ForwardDifference(), Naive()]
SIGMAS = [0.1, 1.0]
REPEATS = 64

A = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
A = A @ A.T
POINT = {"w": jnp.array([0.7, -1.2]), "b": jnp.array(0.4)}


def vector(params):
    return jnp.append(params["w"], params["b"])


def quadratic(params):
    x = vector(params)
    return 0.5 * x @ A @ x + x[0]


def smoothed_quadratic(params, sigma):
    return quadratic(params) + 0.5 * sigma**2 * jnp.trace(A)


def cubic(params):
    return jnp.sum(vector(params) ** 3)


def smoothed_cubic(params, sigma):
    x = vector(params)
    return jnp.sum(x**3 + 3 * sigma**2 * x)


def staircase(params):
    """A count, with derivative 0 wherever it has one."""
    return jnp.sum(vector(params) > 0)


def smoothed_staircase(params, sigma):
    return jnp.sum(jax.scipy.stats.norm.cdf(vector(params) / sigma))


FUNCTIONS = {
    "quadratic": (quadratic, smoothed_quadratic),
    "cubic": (cubic, smoothed_cubic),
    "staircase": (staircase, smoothed_staircase),
}


@functools.cache
def estimates(name, method):
    """`REPEATS` independent estimates as a compiled function of sigma."""
    fn, _ = FUNCTIONS[name]

    def each(sigma):
        estimate = es_value_and_grad(fn, sigma=sigma, samples=100, method=method)
        keys = jax.random.split(jax.random.key(1), REPEATS)
        return jax.vmap(lambda key: estimate(POINT, key=key))(keys)

    return jax.jit(each)


def repeated(name, method, sigma):
    """The estimates' mean, and its standard error."""
    each = estimates(name, method)(sigma)
    mean = jax.tree.map(lambda x: np.mean(x, 0), each)
    error = jax.tree.map(lambda x: np.std(x, 0, ddof=1) / REPEATS**0.5, each)
    return mean, error


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_unbiased_for_the_smoothed_function(name, method, sigma):
    smoothed = FUNCTIONS[name][1]
    truth = jax.value_and_grad(smoothed)(POINT, sigma)
    mean, error = repeated(name, method, sigma)
    leaves = map(jax.tree.leaves, (mean, truth, error))
    for got, expected, e in zip(*leaves, strict=True):
        assert (np.abs(got - np.asarray(expected)) <= 4 * e + 1e-12).all()


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_error_bars_would_show_a_wrong_scale(method, sigma):
    """So that four standard errors are no empty promise."""
    (_, grad), (_, error) = repeated("quadratic", method, sigma)
    assert np.linalg.norm(vector(error)) < 0.1 * np.linalg.norm(vector(grad))


def test_order_of_the_variances():
    errors = [repeated("quadratic", method, 0.1)[1][1] for method in METHODS]
    antithetic, forward, naive = (np.linalg.norm(vector(e)) for e in errors)
    assert antithetic < forward < 0.3 * naive


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_follows_its_formula(method, key):
    """One sample, by hand from the same direction."""
    sigma = 0.3
    value, grad = es_value_and_grad(quadratic, sigma=sigma, samples=1, method=method)(
        POINT, key=key
    )
    keys = jax.random.split(jax.random.fold_in(key, 0), 2)
    eps = {"b": jax.random.normal(keys[0]), "w": jax.random.normal(keys[1], (2,))}
    centre = quadratic(POINT)
    plus, minus = (
        quadratic(jax.tree.map(lambda p, e, s=s: p + s * sigma * e, POINT, eps))
        for s in (1, -1)
    )
    expected_value, slope = {
        Antithetic: ((plus + minus) / 2, (plus - minus) / (2 * sigma)),
        ForwardDifference: (plus, (plus - centre) / sigma),
        Naive: (plus, plus / sigma),
    }[type(method)]
    expected = jax.tree.map(lambda e: slope * e, eps)
    assert_trees_close(value, expected_value, F64_SAME)
    assert_trees_close(grad, expected, F64_SAME)


@pytest.mark.parametrize("chunk_size", [1, 5, 20])
def test_chunks_change_nothing(chunk_size, key):
    whole = es_value_and_grad(cubic, sigma=0.5, samples=20)
    chunked = es_value_and_grad(cubic, sigma=0.5, samples=20, chunk_size=chunk_size)
    assert_trees_close(chunked(POINT, key=key), whole(POINT, key=key), 10 * F64_SAME)


def test_chunks_save_memory(key):
    def fn(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    def temporaries(chunk_size):
        es = es_value_and_grad(fn, sigma=0.1, samples=256, chunk_size=chunk_size)
        lowered = jax.jit(lambda w, x: es(w, x, key=key)).lower(w, x)
        analysis = lowered.compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    w, x = jnp.ones((64, 64)), jnp.ones((8, 64))
    assert temporaries(8) < temporaries(None) / 5


def test_centre_is_evaluated_once(key):
    es = es_value_and_grad(
        lambda w, x: jnp.sum(jnp.tanh(x @ w)),
        sigma=0.1,
        samples=7,
        method=ForwardDifference(),
    )
    jaxpr = jax.make_jaxpr(lambda w, x: es(w, x, key=key))(
        jnp.ones((5, 3)), jnp.ones((2, 5))
    )
    shapes = [
        eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "tanh"
    ]
    assert sorted(shapes, key=len) == [(2, 3), (2, 7, 3)]


def test_arguments_and_transforms(key):
    """Further arguments pass through; jit, vmap over points and a traced sigma work."""

    def fn(w, scale, noise_key):
        return scale * jnp.sum(w**2) + jax.random.normal(noise_key)

    def grad(w, sigma):
        es = es_value_and_grad(fn, sigma=sigma, samples=40)
        return es(w, 2.0, jax.random.key(5), key=key)[1]

    points = jnp.array([[1.0, 2.0], [0.3, -0.4]])
    batched = jax.jit(jax.vmap(grad, in_axes=(0, None)))(points, 0.1)
    single = jnp.stack([grad(point, 0.1) for point in points])
    assert_trees_close(batched, single, 10 * F64_SAME)
    # the noise of `fn` is common to both points of a pair, so it cancels
    quiet = es_value_and_grad(lambda w: 2 * jnp.sum(w**2), sigma=0.1, samples=40)
    assert_trees_close(single[0], quiet(points[0], key=key)[1], 1e-9)


def test_outside_jax(key):
    def score(w):
        shape = jax.ShapeDtypeStruct((), jnp.float64)
        return jax.pure_callback(
            lambda w: np.float64(math.floor(3 * w[0])),
            shape,
            w,
            vmap_method="sequential",
        )

    value, grad = es_value_and_grad(score, sigma=1.0, samples=400)(
        jnp.array([0.2]), key=key
    )
    assert abs(grad[0] - 3) < 0.3
    assert abs(value - 0.1) < 0.5


def test_dtype_is_kept(key):
    grad = es_value_and_grad(lambda w: jnp.sum(w**2), sigma=0.1, samples=8)(
        jnp.ones(3, jnp.float32), key=key
    )[1]
    assert grad.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: es_value_and_grad(cubic, sigma=1, samples=0),
            ValueError,
            "at least 1",
        ),
        (
            lambda: es_value_and_grad(cubic, sigma=1, samples=10, chunk_size=4),
            ValueError,
            r"must divide `samples`=10; got 4",
        ),
        (
            lambda: es_value_and_grad(vector, sigma=1, samples=2)(
                POINT, key=jax.random.key(0)
            ),
            ValueError,
            r"must return a scalar; got an array of shape \(3,\)",
        ),
        (
            lambda: es_value_and_grad(cubic, sigma=1, samples=2)(
                {"w": jnp.arange(2), "b": 1.0}, key=jax.random.key(0)
            ),
            TypeError,
            r"dtype int64 at the leaf \"\['w'\]\"",
        ),
        (
            lambda: es_value_and_grad(cubic, sigma=1, samples=2)(POINT),
            TypeError,
            "key",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
