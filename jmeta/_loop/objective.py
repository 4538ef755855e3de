"""The scalar that a loop minimises, made from the user's functions and checked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.tree import cast_like, is_float
from jmeta._core.typing import Key, PyTree
from jmeta._jaxpr.flow import follow_indices, own_indices
from jmeta._jaxpr.foreign_rules import foreign_rules
from jmeta._jaxpr.hoist import hoist
from jmeta._jaxpr.remembered import preserving_rules
from jmeta.adjoint._base import Objective


class Inputs(NamedTuple):
    """The inputs of an objective at one step, beside the parameters.

    Attributes:
        state: The model's state, None without one.
        batch: This step's batch, None without one.
        key: This step's key, None without one.
    """

    state: PyTree
    batch: PyTree
    key: Key | None


class Extra(NamedTuple):
    """The outputs of an objective beside the loss.

    Attributes:
        aux: The user's auxiliary output, None without `has_aux`.
        state: The model's new state, None without one.
    """

    aux: PyTree
    state: PyTree


def make_objective(
    apply_fn: Callable[..., Any],
    loss_fn: Callable[..., Any] | None,
    has_aux: bool,
    merge: Callable[[PyTree], PyTree],
    params: PyTree,
    inputs: Inputs,
) -> Objective:
    """Trace the inner objective once, check its output and make its captures explicit.

    Args:
        apply_fn: Function `apply_fn(params[, state][, inputs][, key=])`.
        loss_fn: Function `loss_fn(outputs, targets)`, or None when `apply_fn` gives the
            loss.
        has_aux: Whether the loss comes as `(loss, aux)`.
        merge: Completes the trained parameters with the frozen ones.
        params: The trained parameters.
        inputs: The first step's inputs, or their shapes and dtypes.

    Returns:
        The objective, whose `pure` gives `(loss, Extra)`.

    Raises:
        TypeError: `apply_fn` is no function, or the loss is no JAX value.
        ValueError: The loss is not a scalar or does not depend on the parameters, or
            the state changes its structure.
    """
    _check_function(apply_fn)
    if loss_fn is not None and inputs.batch is None:
        raise ValueError(
            "`loss_fn` compares outputs with targets, so it needs `batch=(inputs,"
            " targets)` or `batches=`; without data let `apply_fn` give the loss."
        )

    _check_call(apply_fn, inputs)

    def objective(params: PyTree, inputs: Inputs) -> tuple[jax.Array, Extra]:
        args = [] if inputs.state is None else [inputs.state]
        kwargs = {} if inputs.key is None else {"key": inputs.key}
        if inputs.batch is not None:
            args.append(_split_batch(inputs.batch)[0] if loss_fn else inputs.batch)
        result = apply_fn(merge(params), *args, **kwargs)
        state = None
        if inputs.state is not None:
            result, state = _split_state(result)
            state = _like_state(state, inputs.state)
        if loss_fn is not None:
            result = loss_fn(result, _split_batch(inputs.batch)[1])
        loss, aux = _split_aux(result) if has_aux else (result, None)
        _check_scalar(loss, has_aux)
        validate.arrays(
            "aux", aux, some=False, use="Strings and objects belong outside."
        )
        return loss, Extra(aux, jax.lax.stop_gradient(state))

    try:
        pure, captured, jaxpr = hoist(objective, params, inputs)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
    ) as error:
        if isinstance(error, jax.errors.TracerBoolConversionError):
            raise
        raise TypeError(_NOT_TRACED) from error
    _check_reaches(jaxpr, len(jax.tree.leaves(params)))
    constant = {id(x) for x in jax.tree.leaves(merge(params))}
    rules = foreign_rules(jaxpr.jaxpr)
    return Objective(
        pure=preserving_rules(pure) if rules else pure,
        captured=captured,
        frozen=[x for x in captured if id(x) in constant],
        foreign_rules=rules,
    )


_NOT_TRACED = (
    "The objective must stay in JAX: it turned a traced value into a Python number or"
    " a numpy array (`float(x)`, `x.item()`, `np.asarray(x)`), which has no gradient."
    " Return the JAX scalar itself."
)


def _check_call(apply_fn, inputs):
    """Require `apply_fn` to take the arguments that `inner_loop` was given for it."""
    args = ["params"]
    args += ["state"] if inputs.state is not None else []
    args += ["inputs"] if inputs.batch is not None else []
    keywords = ["key"] if inputs.key is not None else []
    use = (
        "It gets the parameters, the model's state with `state`, inputs with `batch` or"
        " `batches`, and a PRNG key, by that name, with `key`."
    )
    validate.takes("apply_fn", apply_fn, *args, keywords=keywords, use=use)


def _check_function(apply_fn):
    if isinstance(apply_fn, nnx.Module | linen.Module):
        raise TypeError(
            "`apply_fn` must be a pure function; got the module"
            f" {type(apply_fn).__name__}. Split it first: `apply_fn, params ="
            " jmeta.make_functional(module)`."
        )
    if not callable(apply_fn):
        raise TypeError(
            "`apply_fn` must be a function `apply_fn(params, ...)`; got"
            f" {validate.kind(apply_fn)}. Make one of a model with"
            " `jmeta.make_functional`."
        )


def _split_batch(batch):
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            "With `loss_fn` a batch must be a pair `(inputs, targets)`; got"
            f" {type(batch).__name__}."
        )
    return batch


def _split_state(result):
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            "With `state` the function must give `(outputs, new_state)`; got"
            f" {type(result).__name__}."
        )
    return result


def _split_aux(result):
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            "With `has_aux=True` the objective must be `(loss, aux)`; got"
            f" {type(result).__name__}."
        )
    return result


def _like_state(new, old):
    """Cast the new state to the old one's dtypes, since a loop's carry keeps them."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise ValueError(
            "`apply_fn` must give a new state like `state`; got"
            f" {jax.tree.structure(new)} for {jax.tree.structure(old)}."
        )
    for (path, a), b in zip(
        tree_leaves_with_path(new), jax.tree.leaves(old), strict=True
    ):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(
                f"`apply_fn` must keep the shapes of `state`; leaf {keystr(path)} went"
                f" from {jnp.shape(b)} to {jnp.shape(a)}."
            )
    return cast_like(new, old)


def _check_scalar(loss, has_aux):
    if isinstance(loss, int | float | np.generic):
        raise TypeError(
            f"The objective must be a JAX scalar; got the number {loss!r}, which has no"
            " gradient. Compute it from the parameters with jax.numpy, without"
            " `float()` or `.item()`."
        )
    expected = "a pair `(loss, aux)` with a scalar loss" if has_aux else "a scalar loss"
    if isinstance(loss, tuple | list | dict) or not hasattr(loss, "shape"):
        hint = "" if has_aux else " For a pair `(loss, aux)` set `has_aux=True`."
        raise ValueError(
            f"The objective must be {expected}; got {type(loss).__name__}.{hint}"
        )
    if loss.shape:
        raise ValueError(
            f"The objective must be {expected}; got an array of shape {loss.shape}."
            " Reduce it, for example with `.mean()`."
        )
    if not is_float(loss):
        raise ValueError(f"The loss must be a float; got dtype {loss.dtype}.")


def _check_reaches(jaxpr, num_params):
    """Refuse a loss that no differentiable path from the parameters reaches."""
    if not any(
        i < num_params
        for i in follow_indices(jaxpr, own_indices(jaxpr.jaxpr.invars))[0]
    ):
        raise ValueError(
            "The loss does not depend on the trained parameters (or `stop_gradient`,"
            " an integer or a custom derivative rule cuts it off), so no step would"
            " move them. Use the parameters that `apply_fn` is given."
        )
