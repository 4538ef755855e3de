"""Gradients of functions that are only evaluated, by evolution strategies."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.key_argument import with_optional_key
from jmeta._core.tree import is_float
from jmeta._core.typing import Key, PyTree

_FN_KEY_DATA = 2**32 - 1
"""The number that is folded into a sample's key to make the key that `fn` gets."""

At = Callable[[int], jax.Array]
"""`at(s)` is `fn(params + s * sigma * direction)`, for s of -1, 0 and 1."""


class Estimator(Protocol):
    """A rule that makes an estimate from the function's values along one direction."""

    def __call__(self, at: At) -> tuple[jax.Array, jax.Array]:
        """Estimate the value and the rise of the function over a distance of `sigma`.

        The gradient is the mean of `rise / sigma * direction` over random directions.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Antithetic:
    """Use the difference of two opposite points: two evaluations per sample.

        (fn(params + sigma eps) - fn(params - sigma eps)) eps / (2 sigma)

    It has the least variance of the three. Even terms of the function cancel, so the
    variance stays bounded as sigma goes to 0.

    Example:
        >>> at = {-1: 4.0, 0: 9.0, 1: 16.0}.get
        >>> Antithetic()(at)
        (10.0, 6.0)

    References:
        Salimans et al. (2017), Evolution strategies as a scalable alternative to
        reinforcement learning, arXiv:1703.03864.
    """

    def __call__(self, at: At) -> tuple[jax.Array, jax.Array]:
        """Return the mean and half the difference of the values at the two points."""
        plus, minus = at(1), at(-1)
        return (plus + minus) / 2, (plus - minus) / 2


@dataclasses.dataclass(frozen=True)
class ForwardDifference:
    """Use the difference from the centre: one evaluation per sample, one at the centre.

        (fn(params + sigma eps) - fn(params)) eps / sigma

    Example:
        >>> at = {-1: 4.0, 0: 9.0, 1: 16.0}.get
        >>> ForwardDifference()(at)
        (16.0, 7.0)

    References:
        Choromanski et al. (2018), Structured evolution with compact architectures for
        scalable policy optimization, arXiv:1804.02395.
    """

    def __call__(self, at: At) -> tuple[jax.Array, jax.Array]:
        """Return the value at the point, and how much it is above the centre."""
        point = at(1)
        return point, point - at(0)


@dataclasses.dataclass(frozen=True)
class Naive:
    """Use the value itself: one evaluation per sample.

        fn(params + sigma eps) eps / sigma

    It has the most variance of the three. A constant that is added to the function does
    not change the mean of the estimate but adds to its variance.

    Example:
        >>> at = {-1: 4.0, 0: 9.0, 1: 16.0}.get
        >>> Naive()(at)
        (16.0, 16.0)

    References:
        Wierstra et al. (2014), Natural evolution strategies, JMLR 15.
    """

    def __call__(self, at: At) -> tuple[jax.Array, jax.Array]:
        """Return the value at the point, also as the rise."""
        point = at(1)
        return point, point


def es_value_and_grad(
    fn: Callable[..., Any],
    *,
    sigma: chex.Numeric,
    samples: int,
    method: Estimator = Antithetic(),
    chunk_size: int | None = None,
) -> Callable[..., tuple[jax.Array, PyTree]]:
    """Make a function that estimates value and gradient, of `fn` without derivatives.

    With every `method` both are unbiased estimates for the function smoothed by
    Gaussian noise:

        smoothed(params) = E[fn(params + sigma eps)],  eps ~ N(0, 1)

    It has a gradient where `fn` has none (accuracy, rounding, a game's score), and a
    useful one where that of `fn` is chaotic, as after many inner steps. For a quadratic
    `fn` its gradient is that of `fn`, at every `sigma`.

    Args:
        fn: `fn(params, *args[, key=]) -> scalar` in JAX. If it has a parameter named
            `key` that `args` do not fill, it gets a key: one for each sample, the same
            at both points of the sample. To use a function outside JAX, wrap it in
            `jax.pure_callback(..., vmap_method="sequential")`.
        sigma: Standard deviation of the noise, in the unit of the parameters.
        samples: Number of random directions.
        method: The rule that makes an estimate from the values along one direction:
            `Antithetic()`, `ForwardDifference()` or `Naive()`.
        chunk_size: Number of directions that are evaluated at a time, by `vmap`; memory
            grows with it. It must divide `samples`. Default all.

    Returns:
        A function `(params, *args, key) -> (value, grad)`, with `grad` like `params`.
        All samples get the same `args`, so a key among them gives all samples the same
        random numbers. The function is not jitted.

    Raises:
        ValueError: `sigma`, `samples` or `chunk_size` is out of range, or `fn` gives no
            scalar.
        TypeError: An argument of the wrong kind, or a parameter that is not a float.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> value_and_grad = jmeta.es_value_and_grad(
        ...     lambda w: jnp.sum(jnp.round(w) ** 2), sigma=0.5, samples=4000
        ... )
        >>> value, grad = value_and_grad(jnp.array([1.0, 2.0]), key=jax.random.key(0))
        >>> [round(float(g)) for g in grad]
        [2, 4]

    References:
        Nesterov and Spokoiny (2017), Random gradient-free minimization of convex
        functions, Found. Comput. Math. 17. Metz et al. (2019), Understanding and
        correcting pathologies in the training of learned optimizers,
        arXiv:1810.10180.
    """
    _check_arguments(fn, sigma, samples, method, chunk_size)
    chunk = samples if chunk_size is None else chunk_size
    call = with_optional_key("fn", fn)

    def value_and_grad(
        params: PyTree, *args: Any, key: Key
    ) -> tuple[jax.Array, PyTree]:
        _check_floats(params)
        validate.key("key", key)
        params = jax.tree.map(jnp.asarray, params)

        def sample(i):
            sample_key = jax.random.fold_in(key, i)
            direction = _normal_like(sample_key, params)
            # `_normal_like` splits the same key, which gives keys as if 0, 1, ... were
            # folded in. A number that large keeps this key apart from those.
            fn_key = jax.random.fold_in(sample_key, _FN_KEY_DATA)
            at = lambda s: call(_moved(params, direction, s, sigma), *args, key=fn_key)
            value, rise = method(lambda s: _checked_scalar(at(s)))
            scaled = rise / sigma
            return value, jax.tree.map(
                lambda e: (scaled * e).astype(e.dtype), direction
            )

        def add_chunk(total, indices):
            sums = jax.tree.map(lambda x: x.sum(0), jax.vmap(sample)(indices))
            return jax.tree.map(jnp.add, total, sums), None

        # The sums are built up chunk by chunk, so that memory is that of one chunk.
        shapes = jax.eval_shape(sample, jnp.int32(0))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        indices = jnp.arange(samples, dtype=jnp.int32).reshape(-1, chunk)
        if chunk == samples:
            total = add_chunk(zeros, indices[0])[0]
        else:
            total = jax.lax.scan(add_chunk, zeros, indices)[0]
        return jax.tree.map(lambda x: x / samples, total)

    return value_and_grad


def _moved(params, direction, sign, sigma):
    """The parameters at `sign * sigma` along a direction."""
    if sign == 0:
        # These do not depend on the sample, so `vmap` evaluates the centre only once.
        return params
    return jax.tree.map(
        lambda p, e: p + jnp.asarray(sign * sigma, e.dtype) * e, params, direction
    )


def _checked_scalar(value):
    """What `fn` returned as a float; anything but a scalar is refused."""
    if jax.tree.structure(value) != jax.tree.structure(0):
        raise TypeError(
            f"`fn` must return a scalar; got {validate.kind(value)}. Leave out what it"
            " returns beside it."
        )
    validate.arrays("fn's result", value)
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(
            f"`fn` must return a scalar; got an array of shape {value.shape}. Reduce"
            " it, for example with `.mean()`."
        )
    return value if is_float(value) else value.astype(float)


def _normal_like(key, params):
    """Standard normal numbers in the shapes and dtypes of the parameters."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [
            jax.random.normal(k, x.shape, x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
    )


def _check_arguments(fn, sigma, samples, method, chunk_size):
    validate.function("fn", fn, use="Pass `fn(params, *args)`, which gives a scalar.")
    validate.number(
        *("sigma", sigma),
        above=0.0,
        high=sys.float_info.max,
        use="It is the noise's standard deviation, in the unit of the parameters.",
    )
    use = "It is a number of random directions."
    validate.count("samples", samples, minimum=1, use=use)
    if not callable(method) or inspect.isclass(method):
        raise TypeError(
            "`method` must be an estimator; got"
            f" {validate.kind(method)}. Pass `jmeta.Antithetic()`,"
            " `jmeta.ForwardDifference()` or `jmeta.Naive()`."
        )
    if chunk_size is None:
        return
    validate.count("chunk_size", chunk_size, minimum=1, use="It divides `samples`.")
    if samples % chunk_size:
        raise ValueError(
            f"`chunk_size` must divide `samples`={samples}; got {chunk_size}. Use"
            " another number of samples."
        )


def _check_floats(params):
    use = "Pass what is not moved as a further argument of `fn`."
    validate.floats("params", params, use=use)
    for path, leaf in tree_leaves_with_path(params):
        if not is_float(leaf):
            raise TypeError(
                f"`params` must be real; leaf {keystr(path)!r} has dtype"
                f" {jnp.result_type(leaf)}. Pass its real and imaginary parts."
            )
