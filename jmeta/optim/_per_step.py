"""Turn what a user writes for a hyperparameter into one value for each step."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.settings import (
    PerLeaf,
    PerStep,
    Setting,
    as_hyperparam,
    step_in_precision,
)
from jmeta._core.tree import widest
from jmeta._core.typing import PyTree


def per_step(
    name: str, value: Any, own: Setting, steps: int, params: PyTree
) -> tuple[PyTree, Callable[[jax.Array, PyTree], Setting]]:
    """Split an override into values per step and a function that reads them.

    Args:
        name: Name of the hyperparameter, for messages.
        value: Override as the user wrote it.
        own: Value that the transform itself has. It says whether the hyperparameter is
            a pair, for which a list is allowed, or a single number.
        steps: Number of steps of the loop.
        params: Parameters that a `PerLeaf` must match.

    Returns:
        A pytree of arrays with leading axis `steps` (None if there are none), and a
        function `(step, x) -> value` whose `x` is that step's slice of them.

    Raises:
        ValueError: The value has a wrong form or length.
    """
    if isinstance(value, PerStep):
        for leaf in jax.tree.leaves(value.value):
            _check_length(name, jnp.shape(leaf), steps)
        per_steps = as_hyperparam(_refuse_list(name, _as_pair(value.value, own)), name)
        return per_steps, lambda step, x: _check_form(name, x, own, params)
    if callable(value) and not inspect.isclass(value):
        return None, _from_function(name, value, own, params)
    value = _as_pair(value, own)
    if isinstance(own, tuple) and isinstance(value, tuple):
        _check_pair(name, value, own)
        parts = [
            per_step(name, v, o, steps, params) for v, o in zip(value, own, strict=True)
        ]
        ats = [at for _, at in parts]
        return [xs for xs, _ in parts], lambda step, x: tuple(
            at(step, part) for at, part in zip(ats, x, strict=True)
        )
    if not isinstance(value, PerLeaf) and not isinstance(own, tuple):
        array = _single_number(name, value)
        if array.ndim == 1:
            _check_length(name, array.shape, steps)
            return array, lambda step, x: x
    constant = _check_form(name, value, own, params)
    return None, lambda step, x: constant


def _as_pair(value, own):
    """The value, as a tuple if it is a list and the transform has a pair."""
    is_pair = isinstance(own, tuple) and isinstance(value, list)
    return tuple(value) if is_pair else value


def _from_function(name, value, own, params):
    """`(step, x) -> value(step)`, with the step in the precision of the values."""
    validate.takes(name, value, "step")

    def at(step):
        try:
            found = value(step)
        except _TRACING_ERRORS as error:
            raise TypeError(
                f"`{name}` as a function of the step must stay in JAX, which traces the"
                " step; got one that turns it into a Python number. Use `jnp.where`, or"
                " index a `jnp.array`."
            ) from error
        return _check_form(name, found, own, params)

    # A weakly typed step has no precision of its own, so the values show theirs.
    weak = jax.ShapeDtypeStruct((), jnp.result_type(int), weak_type=True)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(at, weak))]
    dtype = widest(jnp.float32, *dtypes)
    return lambda step, x: at(step_in_precision(step, dtype))


_TRACING_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _single_number(name, value):
    if isinstance(value, tuple):
        raise ValueError(
            f"`{name}` is a single number, not a pair; got {value!r}. Use an array of"
            " shape [steps] for a value per step."
        )
    return as_hyperparam(_refuse_list(name, value), name)


def _refuse_list(name, value):
    if isinstance(value, list):
        raise ValueError(
            f"`{name}` is a single number, and a list is no override of it; got"
            f" {value!r}. Pass an array with a value per step, or {{label: value}} for"
            " parameter groups."
        )
    return value


def _check_form(name, value, own, params):
    """Check the value of one step: a number, a pair of them, or a `PerLeaf`."""
    if isinstance(own, tuple):
        value = _as_pair(value, own)
        _check_pair(name, value, own)
        return tuple(
            _check_form(name, v, o, params) for v, o in zip(value, own, strict=True)
        )
    value = _single_number(name, value)
    if isinstance(value, PerLeaf):
        _check_prefix(name, value.tree, params)
    elif value.ndim:
        raise ValueError(
            f"`{name}` must be a number at each step; got shape {value.shape}. Use an"
            " array of shape [steps] for a value per step, `PerLeaf(tree)` for a value"
            " per parameter."
        )
    return value


def _check_length(name, shape, steps):
    if not shape or shape[0] != steps:
        raise ValueError(
            f"`{name}` per step must have leading length `steps`={steps}; got shape"
            f" {tuple(shape)}."
        )


def _check_pair(name, value, own):
    if not isinstance(value, tuple) or len(value) != len(own):
        names = ", ".join("abc"[: len(own)])
        raise ValueError(
            f"`{name}` is a tuple or list of {len(own)} values; got {value!r}."
            f" Override all of them, as in {{'{name}': ({names})}}."
        )


def _check_prefix(name, tree, params):
    try:
        jax.tree.map(lambda value, part: None, tree, params)
    except ValueError as error:
        raise ValueError(
            f"`PerLeaf` for `{name}` must be a tree, or prefix, of the parameters:"
            f" {error}"
        ) from None

    def check(value, part):
        for param in jax.tree.leaves(part):
            if not _broadcasts(jnp.shape(value), jnp.shape(param)):
                raise ValueError(
                    f"`PerLeaf` for `{name}` must have values that broadcast to their"
                    f" parameter; got shape {jnp.shape(value)} for a parameter of"
                    f" shape {jnp.shape(param)}."
                )

    jax.tree.map(check, tree, params)


def _broadcasts(shape, to):
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(a in (1, b) for a, b in sizes)
