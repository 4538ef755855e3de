"""Resilient backpropagation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.settings import Pair, Setting, check_settings, is_plain, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class RpropState(NamedTuple):
    """State of `rprop`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        prev: The last gradient, 0 where its sign had changed, a tree like the
            parameters.
        step_size: Step size of each entry, a tree like the parameters.
        hyperparams: The next update's `lr, etas, step_sizes`.
    """

    step: jax.Array
    prev: PyTree
    step_size: PyTree
    hyperparams: dict[str, Setting]


def rprop(
    lr: Setting = 1e-2,
    etas: Pair = (0.5, 1.2),
    step_sizes: Pair = (1e-6, 50.0),
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rprop with torch's semantics, differentiable in every setting.

        agree     <- sign(grad * prev)
        factor    <- etas[1] if agree > 0, etas[0] if agree < 0, 1 otherwise
        step_size <- clamp(step_size * factor, step_sizes[0], step_sizes[1])
        grad      <- 0 if agree < 0 else grad
        param     <- param - step_size * sign(grad)
        prev      <- grad

    Args:
        lr: Step size of every entry in the first update; a number, a scalar array, a
            schedule `step -> value` or a `PerLeaf`. Every other numeric setting takes
            these forms too.
        etas: Factors of the step size, a tuple or a list of two: below 1 where the
            gradient's sign changed, above 1 where it did not.
        step_sizes: Smallest and largest step size, a tuple or a list of two.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = rprop(lr=0.5, etas=(0.5, 2.0))
        >>> params = jnp.array([1.0, 2.0])
        >>> state = tx.init(params)
        >>> _, state = tx.update(jnp.array([3.0, 1.0]), state, params)
        >>> updates, _ = tx.update(jnp.array([1.0, -1.0]), state, params)
        >>> updates.tolist()
        [-1.0, -0.0]

    Note:
        Only the sign of a gradient is used, so no derivative passes through it: the
        derivative of a final parameter with respect to its initial value is 1.
        `optax.rprop` returns each step one update late.

    References:
        Riedmiller and Braun (1993), A direct adaptive method for faster
        backpropagation learning: the RPROP algorithm, IEEE ICNN.
    """
    settings = {
        "lr": lr,
        "etas": pair("etas", etas),
        "step_sizes": pair("step_sizes", step_sizes),
    }
    inf = float("inf")
    check_settings(
        settings, {"maximize": maximize}, ("etas", "step_sizes"), lr=(0, inf)
    )
    if all(map(is_plain, etas)):
        if not 0 < etas[0] < 1 < etas[1]:
            raise ValueError(f"`etas` must be 0 < etas[0] < 1 < etas[1]; got {etas}.")

    # This rule follows `_single_tensor_rprop` in torch/optim/rprop.py.
    def rule(hp, step, grad, param, prev, step_size):
        del param
        etaminus, etaplus = hp["etas"]
        smallest, largest = hp["step_sizes"]
        grad = -grad if maximize else grad
        agree = jnp.sign(grad * prev)
        factor = jnp.where(agree > 0, etaplus, jnp.where(agree < 0, etaminus, 1.0))
        # torch sets step_size in the first update, when `lr` may have been overridden.
        step_size = jnp.where(step == 1, hp["lr"], step_size) * factor
        # The derivative of jnp.clip at a bound is 1/2; that of `where` is 0 or 1.
        step_size = jnp.where(step_size < smallest, smallest, step_size)
        step_size = jnp.where(step_size > largest, largest, step_size)
        grad = jnp.where(agree < 0, 0.0, grad)
        return -jnp.sign(grad) * step_size, {"prev": grad, "step_size": step_size}

    slots = {
        "prev": lambda hp, param: jnp.zeros_like(param),
        "step_size": lambda hp, param: jnp.broadcast_to(
            hp["lr"].astype(param.dtype), param.shape
        ),
    }
    return per_leaf(RpropState, slots, rule, settings)
