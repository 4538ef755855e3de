"""Find the parameters that an objective does not use."""

from collections.abc import Callable

import jax
from jax.tree_util import tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.tree import path_strings
from jmeta._core.typing import Path, PyTree
from jmeta._jaxpr.flow import dependencies


def unused_parameters(
    objective: Callable[..., jax.Array], params: PyTree, *batch: PyTree
) -> frozenset[Path]:
    """Find the parameters that an objective does not depend on, to leave them out.

    torch skips a parameter that has no gradient. In JAX the gradient of such a
    parameter is zeros, on which weight decay and momentum still act. Training without
    the parameter gives torch's numbers:

        unused = jmeta.unused_parameters(objective, params, batch)
        jmeta.inner_loop(..., trainable=lambda path: path not in unused)

    The objective is traced, not run. A parameter counts as used when a path of
    floating-point values leads from it to the loss and no `stop_gradient` cuts that
    path, even if the gradient along it happens to be 0. Where a function has a
    derivative rule of its own (`jax.custom_jvp`, `jax.custom_vjp`), the rule decides: a
    spike with a surrogate gradient uses its parameters.

    Args:
        objective: `objective(params, *batch)`, the scalar loss.
        params: The parameters, a pytree of arrays or `jax.ShapeDtypeStruct`s.
        *batch: The further arguments of the objective, pytrees of arrays or
            `jax.ShapeDtypeStruct`s.

    Returns:
        The paths of the unused parameters, such as `("head", "kernel")`.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: The objective gives anything but a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"body": jnp.ones(2), "head": {"w": jnp.ones(2)}}
        >>> loss = lambda params, x: jnp.sum(x * params["body"])
        >>> unused_parameters(loss, params, jnp.ones(2))
        frozenset({('head', 'w')})
    """
    use = "It is called as `objective(params, *batch)`."
    validate.function("objective", objective, use=use)
    validate.takes("objective", objective, params, *batch)
    validate.traceable("params", params)
    validate.traceable("batch", batch)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"`params` must be a tree of arrays; got {validate.kind(params)} without"
            " any. Pass the parameters that `objective` takes first."
        )

    def checked(params, *batch):
        loss = objective(params, *batch)
        validate.traceable("objective", loss, use="Let it return the scalar loss.")
        return loss

    used, shape = dependencies(checked, params, *batch)
    leaves = jax.tree.leaves(shape)
    if jax.tree.structure(shape) != jax.tree.structure(0) or leaves[0].shape:
        got = [leaf.shape for leaf in leaves]
        raise ValueError(
            "`objective` must return a scalar loss alone; got arrays of shapes"
            f" {got}. Reduce it, for example with `.mean()`, and leave out the rest."
        )
    return frozenset(
        path_strings(path)
        for i, (path, _) in enumerate(tree_leaves_with_path(params))
        if i not in used
    )
