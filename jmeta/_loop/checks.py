"""Checks of the arguments of an inner loop."""

import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.tree import is_float, widest
from jmeta._core.typing import PyTree
from jmeta.optim.hyperparams import places, without_hyperparams


def steps(steps: Any) -> None:
    """Require `steps` to be a count that is known before tracing."""
    use = ""
    if isinstance(steps, jax.core.Tracer):
        use = "Pass the largest count as `steps` and the traced one as `active`."
    validate.count("steps", steps, use=use)


def active(active: Any, steps: int) -> jax.Array | None:
    """Require `active` to be None or an integer scalar.

    Args:
        active: What the user passed as `active`.
        steps: Number of steps of the loop.

    Returns:
        An int32 array from 0 to `steps`, or None.
    """
    if active is None:
        return None
    use = f"Pass a number of steps from 0 to `steps`={steps}, one per task."
    validate.number("active", active, use=use)
    if not jnp.issubdtype(jnp.result_type(active), jnp.integer):
        raise TypeError(
            f"`active` must be an integer; got {validate.kind(active)}. {use}"
        )
    if not isinstance(active, jax.core.Tracer):
        validate.number("active", active, low=0, high=steps, use=use)
    # the value of a traced count is not known, so it is clipped instead of refused
    wide = jnp.asarray(active, widest(jnp.result_type(active), jnp.int32))
    return jnp.clip(wide, 0, steps).astype(jnp.int32)


def one_batch(batch: PyTree, batches: PyTree, steps: int) -> None:
    """Require at most one of `batch` and `batches`, the latter with axis `steps`."""
    if batch is not None and batches is not None:
        raise ValueError(
            "Pass `batch` (the same at every step) or `batches` (leading axis `steps`),"
            " not both."
        )
    validate.arrays("batch", batch, some=False)
    validate.arrays("batches", batches, some=False)
    for path, leaf in tree_leaves_with_path(batches):
        if not jnp.shape(leaf) or jnp.shape(leaf)[0] != steps:
            raise ValueError(
                f"`batches` must have leading length `steps`={steps} on every leaf;"
                f" leaf {keystr(path)!r} has shape {jnp.shape(leaf)}."
            )


def trained(params: PyTree) -> None:
    """Require at least one trained parameter, and all of them to be floats."""
    leaves = tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(
            "There must be a parameter to train; `trainable` (or `params`) leaves none."
        )
    for path, leaf in leaves:
        if not is_float(leaf):
            raise TypeError(
                "Trained parameters must be floats; leaf"
                f" {keystr(path)!r} has dtype {jnp.result_type(leaf)}. Freeze it:"
                " `trainable=lambda path: ...` that is False for it."
            )


def opt_state(
    opt_state: PyTree, tx: optax.GradientTransformation, params: PyTree
) -> PyTree:
    """Require `opt_state` to be a state of this transform for these parameters.

    Args:
        opt_state: What the user passed as `opt_state`.
        tx: The transform.
        params: The trained parameters.

    Returns:
        The state in the dtypes of `tx.init(params)`: a loop keeps the dtypes that it
        starts with, so a state of lower precision would be rounded at every step.
        Settings keep their own dtypes.
    """
    fresh = jax.eval_shape(tx.init, params)
    expected = without_hyperparams(fresh)
    given = without_hyperparams(opt_state)
    message = (
        "`opt_state` must be a state of `tx` for the trained parameters, as"
        " `tx.init(params)` gives it"
    )
    if jax.tree.structure(given) != jax.tree.structure(expected):
        raise ValueError(
            f"{message}; got {jax.tree.structure(given)}, expected"
            f" {jax.tree.structure(expected)}."
        )
    validate.arrays("opt_state", opt_state, some=False, use="Pass a state of `tx`.")
    for place, own in zip(places(opt_state), places(fresh), strict=True):
        if place.values.keys() != own.values.keys():
            raise ValueError(
                f"{message}; it has the settings {sorted(place.values)}, expected"
                f" {sorted(own.values)}."
            )
    pairs = zip(tree_leaves_with_path(given), jax.tree.leaves(expected), strict=True)
    for (path, leaf), like in pairs:
        if jnp.shape(leaf) != like.shape:
            raise ValueError(
                f"{message}; leaf {keystr(path)!r} has shape {jnp.shape(leaf)},"
                f" expected {like.shape}."
            )
        if _dtype_kind(jnp.result_type(leaf)) != _dtype_kind(like.dtype):
            raise ValueError(
                f"{message}; leaf {keystr(path)!r} has dtype {jnp.result_type(leaf)},"
                f" expected {like.dtype}. Convert it, if that is what it means."
            )
    paths = [path for path, _ in tree_leaves_with_path(given)]
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(expected)]
    dtype_at = dict(zip(paths, dtypes, strict=True))

    def cast(path, leaf):
        return jnp.asarray(leaf, dtype_at[path]) if path in dtype_at else leaf

    return jax.tree_util.tree_map_with_path(cast, opt_state)


def _dtype_kind(dtype):
    """Return the kind of a dtype, which a cast of precision alone does not change."""
    kinds = (jnp.floating, jnp.complexfloating, jnp.integer)
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), dtype)


def perturbations(perturbations: PyTree, params: PyTree, steps: int) -> None:
    """Require `perturbations` to be a tree like the history."""
    if jax.tree.structure(perturbations) != jax.tree.structure(params):
        raise ValueError(
            "`perturbations` must be a tree like the trained parameters; got"
            f" {jax.tree.structure(perturbations)}, expected"
            f" {jax.tree.structure(params)}."
        )
    pairs = zip(
        tree_leaves_with_path(perturbations), jax.tree.leaves(params), strict=True
    )
    for (path, leaf), param in pairs:
        if leaf.shape != (steps + 1, *param.shape):
            raise ValueError(
                "`perturbations` must have a leading axis of `steps + 1` before the"
                f" parameter's shape; leaf {keystr(path)!r} has shape {leaf.shape},"
                f" expected {(steps + 1, *param.shape)}."
            )


def functions(loss_fn: Any, grad_callback: Any, trainable: Any) -> None:
    """Require each of these arguments that is not None to be a function."""
    if loss_fn is not None:
        use = "Pass `loss_fn(outputs, targets)`, which gives a scalar."
        validate.takes("loss_fn", loss_fn, "outputs", "targets", use=use)
    if grad_callback is not None:
        use = (
            "Pass a function from gradients to gradients; a transform belongs into"
            " `tx`: `optax.chain(transform, tx)`."
        )
        validate.takes("grad_callback", grad_callback, "grads", use=use)
    if trainable is not None:
        use = "Pass a predicate such as `lambda path: path[0] == 'head'`."
        validate.takes("trainable", trainable, "path", use=use)


def time(time: int, times: int) -> None:
    """Require `time` to be an index into a history of `times` entries."""
    try:
        if isinstance(time, bool):
            raise TypeError
        time = operator.index(time)
    except TypeError:
        raise TypeError(
            f"`time` must be a Python integer; got {validate.kind(time)}. The"
            " parameters of all times are in `history`."
        ) from None
    if not -times <= time < times:
        raise IndexError(
            f"`time` must be from 0 (the initial parameters) to {times - 1} (after the"
            f" last step), or negative from the end; got {time}."
        )
