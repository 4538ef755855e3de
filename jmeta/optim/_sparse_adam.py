"""Adam for the rows of an embedding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import integer_power, safe_sqrt
from jmeta._core.settings import Pair, Setting, check_settings, is_plain, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class SparseAdamState(NamedTuple):
    """State of `sparse_adam`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar; one count for all rows.
        exp_avg: Running mean of gradients, a tree like the parameters.
        exp_avg_sq: Running mean of squared gradients, a tree like the parameters.
        hyperparams: The next update's `lr, betas, eps`.
    """

    step: jax.Array
    exp_avg: PyTree
    exp_avg_sq: PyTree
    hyperparams: dict[str, Setting]


def sparse_adam(
    lr: Setting = 1e-3,
    betas: Pair = (0.9, 0.999),
    eps: Setting = 1e-8,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam that leaves alone what has no gradient, with torch's semantics.

    It is for embedding tables, of which a batch uses a few rows. A row is an entry
    along the leading axis. A row whose gradient is entirely 0 keeps its value and its
    moments. The other rows get this update:

        exp_avg    <- exp_avg + (1 - beta1) * (grad - exp_avg)
        exp_avg_sq <- exp_avg_sq + (1 - beta2) * (grad**2 - exp_avg_sq)
        step_size  <- lr * sqrt(1 - beta2**step) / (1 - beta1**step)
        param      <- param - step_size * exp_avg / (sqrt(exp_avg_sq) + eps)

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        betas: Decay rates of `exp_avg` and `exp_avg_sq`, a tuple or a list of two.
        eps: Number added to the root of `exp_avg_sq` before its bias correction; `adam`
            adds it after.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sparse_adam(lr=0.5)
        >>> table = jnp.ones((3, 2))
        >>> grads = jnp.zeros((3, 2)).at[1].set(2.0)
        >>> updates, _ = tx.update(grads, tx.init(table), table)
        >>> updates.round(4).tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0]]

    Note:
        torch updates the rows that the indices of a sparse gradient name. A row that is
        named with a gradient of exactly 0 is updated in torch and left alone here.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization,
        arXiv:1412.6980.
    """
    settings = {"lr": lr, "betas": pair("betas", betas), "eps": eps}
    check_settings(settings, {"maximize": maximize}, ("betas",), betas=(0, 1))
    for name in ("lr", "eps"):
        if is_plain(settings[name]) and not settings[name] > 0:
            raise ValueError(f"`{name}` must be above 0; got {settings[name]}.")

    # This rule follows `sparse_adam` in torch/optim/_functional.py.
    def rule(hp, step, grad, param, exp_avg, exp_avg_sq):
        del param
        beta1, beta2 = hp["betas"]
        grad = -grad if maximize else grad
        inner_axes = tuple(range(1, grad.ndim))
        reached = jnp.any(grad != 0, axis=inner_axes, keepdims=True)
        exp_avg = jnp.where(reached, exp_avg + (1 - beta1) * (grad - exp_avg), exp_avg)
        exp_avg_sq = jnp.where(
            reached, exp_avg_sq + (1 - beta2) * (grad**2 - exp_avg_sq), exp_avg_sq
        )
        bias_correction1 = 1 - integer_power(beta1, step)
        bias_correction2 = 1 - integer_power(beta2, step)
        step_size = hp["lr"] * jnp.sqrt(bias_correction2) / bias_correction1
        update = -step_size * exp_avg / (safe_sqrt(exp_avg_sq) + hp["eps"])
        slots = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        return jnp.where(reached, update, 0.0), slots

    slots = {
        "exp_avg": lambda hp, param: jnp.zeros_like(param),
        "exp_avg_sq": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(SparseAdamState, slots, rule, settings)
