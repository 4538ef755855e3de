"""Refuse what an inner loop cannot take, and say what to pass."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._tree import is_float
from jmeta._typing import PyTree
from jmeta.optim.hyperparams import without_hyperparams


def steps(steps: Any) -> None:
    """`steps` is a static count."""
    if isinstance(steps, jax.core.Tracer):
        raise TypeError(
            "`steps` must be a Python integer, it is the length of a compiled loop; got"
            " a traced value. Pass the largest count as `steps` and the traced one as"
            " `active`."
        )
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise TypeError(
            f"`steps` must be a Python integer; got {steps!r} of type"
            f" {type(steps).__name__}."
        )
    if steps < 0:
        raise ValueError(f"`steps` must be at least 0; got {steps}.")


def one_batch(batch: PyTree, batches: PyTree, steps: int) -> None:
    """`batch` or `batches`, and these have a leading axis of `steps`."""
    if batch is not None and batches is not None:
        raise ValueError(
            "Pass `batch` (the same at every step) or `batches` (leading axis `steps`),"
            " not both."
        )
    for path, leaf in tree_leaves_with_path(batches):
        if not jnp.shape(leaf) or jnp.shape(leaf)[0] != steps:
            raise ValueError(
                f"`batches` must have leading length `steps`={steps} on every leaf;"
                f" leaf {keystr(path)!r} has shape {jnp.shape(leaf)}."
            )


def trained(params: PyTree) -> None:
    """The trained parameters are floats, and there are some."""
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


def opt_state(opt_state: PyTree, tx: optax.GradientTransformation, params: PyTree):
    """`opt_state` belongs to this transform and these parameters."""
    expected = without_hyperparams(jax.eval_shape(tx.init, params))
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
    pairs = zip(tree_leaves_with_path(given), jax.tree.leaves(expected), strict=True)
    for (path, leaf), like in pairs:
        if jnp.shape(leaf) != like.shape:
            raise ValueError(
                f"{message}; leaf {keystr(path)!r} has shape {jnp.shape(leaf)},"
                f" expected {like.shape}."
            )


def perturbations(perturbations: PyTree, params: PyTree, steps: int) -> None:
    """`perturbations` is a tree like the history."""
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


def time(time: int, times: int) -> None:
    """There is a history entry at `time`."""
    if not -times <= time < times:
        raise IndexError(
            f"`time` must be from 0 (the initial parameters) to {times - 1} (after the"
            f" last step), or negative from the end; got {time}."
        )
