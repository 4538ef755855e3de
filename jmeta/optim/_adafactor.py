"""Adafactor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.numerics import safe_divide, safe_sqrt
from jmeta._core.settings import Pair, PerLeaf, Setting, check_settings, is_plain, pair
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf, scalar_settings


class AdafactorState(NamedTuple):
    """State of `adafactor`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        row_var: Running mean of squared gradients over the last axis, which has length
            1 here; None for a parameter of fewer than two axes.
        col_var: Running mean of squared gradients over the last axis but one, which has
            length 1 here; None for a parameter of fewer than two axes.
        variance: Running mean of squared gradients of a parameter of fewer than two
            axes, None for the others.
        hyperparams: The next update's `lr, beta2_decay, eps, d, weight_decay`.
    """

    step: jax.Array
    row_var: PyTree
    col_var: PyTree
    variance: PyTree
    hyperparams: dict[str, Setting]


def adafactor(
    lr: Setting = 1e-2,
    beta2_decay: Setting = -0.8,
    eps: Pair = (None, 1e-3),
    d: Setting = 1.0,
    weight_decay: Setting = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adafactor with torch's semantics, differentiable in every setting.

    For a matrix it stores the second moments of the rows and of the columns, not of
    every entry.

        weight   <- step**beta2_decay
        alpha    <- max(eps[1], rms(param)) * min(lr, 1 / sqrt(step))
        param    <- param - lr * weight_decay * param
        row_var  <- (1 - weight) * row_var + weight * mean(grad**2, axis=-1)
        col_var  <- (1 - weight) * col_var + weight * mean(grad**2, axis=-2)
        variance <- row_var @ col_var / max(mean(row_var, axis=-2), eps[0])
        update   <- grad / max(sqrt(variance), eps[0])
        param    <- param - alpha * update / max(1, rms(update) / d)
        with fewer than two axes:
            variance <- (1 - weight) * variance + weight * grad**2

    Args:
        lr: Largest step size relative to a parameter's size; a number, a scalar array,
            a schedule `step -> value` or a `PerLeaf`. Every other numeric setting takes
            these forms too, but only `lr` and `weight_decay` may differ within a
            parameter.
        beta2_decay: Exponent, at most 0, of the newest gradient's weight
            `step**beta2_decay`.
        eps: A tuple or a list of two lower bounds: of the root of a second moment, and
            of a parameter's root mean square. None for the first is the machine
            epsilon of the parameter's dtype.
        d: Root mean square above which an update is scaled down, at least 1. Exactly
            at this size the derivative is the mean of those on both sides.
        weight_decay: Decay of the parameters, decoupled from the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adafactor(lr=0.5)
        >>> params = jnp.array([[1.0, 1.0], [1.0, 1.0]])
        >>> state = tx.init(params)
        >>> updates, state = tx.update(
        ...     jnp.array([[3.0, 3.0], [4.0, 4.0]]), state, params
        ... )
        >>> updates.round(4).tolist()
        [[-0.5, -0.5], [-0.5, -0.5]]
        >>> state.row_var.tolist(), state.col_var.tolist()
        ([[9.0], [16.0]], [[12.5, 12.5]])

    Note:
        At a gradient of 0 a root of 0 has derivative 0, as in `adam`. The true slope
        there is `-alpha / eps[0]`, which is huge for the default. A kernel of a
        convolution is factored over its last two axes, which are (in, out) in Flax and
        (height, width) in torch's own layout.

    References:
        Shazeer and Stern (2018), Adafactor: adaptive learning rates with sublinear
        memory cost, arXiv:1804.04235; torch's version differs in `lr` and `eps[0]`.
    """
    smallest, smallest_size = pair("eps", eps)
    settings = {
        "lr": lr,
        "beta2_decay": beta2_decay,
        # 1.0 stands in for None until `init` knows the dtypes of the parameters.
        "eps": (1.0 if smallest is None else smallest, smallest_size),
        "d": d,
        "weight_decay": weight_decay,
    }
    inf = float("inf")
    check_settings(
        settings,
        {"maximize": maximize},
        ("eps",),
        lr=(0, inf),
        eps=(0, inf),
        d=(1, inf),
        weight_decay=(0, inf),
    )
    if is_plain(beta2_decay) and not beta2_decay <= 0:
        raise ValueError(f"`beta2_decay` must be at most 0; got {beta2_decay}.")

    # This rule follows `_single_tensor_adafactor` in torch/optim/_adafactor.py.
    def rule(hp, step, grad, param, row_var, col_var, variance):
        scalar_settings("adafactor", hp, "beta2_decay", "eps", "d")
        lr, (smallest, smallest_size) = hp["lr"], hp["eps"]
        dtype = jnp.result_type(lr, param)
        grad, param, step = (x.astype(dtype) for x in (grad, param, step))
        grad = -grad if maximize else grad
        weight = step ** hp["beta2_decay"]
        rho = jnp.minimum(lr, 1 / jnp.sqrt(step))
        alpha = jnp.maximum(smallest_size, _rms(param)) * rho
        if variance is None:
            row_var = row_var + weight * (_mean_square(grad, -1) - row_var)
            col_var = col_var + weight * (_mean_square(grad, -2) - col_var)
            total = jnp.maximum(row_var.mean(axis=-2, keepdims=True), smallest)
            estimate = safe_divide(row_var * col_var, total)
        else:
            variance = variance + weight * (grad**2 - variance)
            estimate = variance
        update = safe_divide(grad, jnp.maximum(safe_sqrt(estimate), smallest))
        slots = {"row_var": row_var, "col_var": col_var, "variance": variance}
        decay = lr * hp["weight_decay"] * param
        return -decay - alpha * update / _clipping(update, hp["d"]), slots

    def zeros(axis):
        """Make the slot of means over `axis`: None for fewer than two axes."""

        def slot(hp, param):
            return (
                jnp.zeros_like(param.mean(axis, keepdims=True))
                if param.ndim > 1
                else None
            )

        return slot

    slots = {
        "row_var": zeros(-1),
        "col_var": zeros(-2),
        "variance": lambda hp, param: None if param.ndim > 1 else jnp.zeros_like(param),
    }
    tx = per_leaf(AdafactorState, slots, rule, settings)

    def init(params: PyTree) -> Any:
        state: Any = tx.init(params)
        if smallest is not None:
            return state
        eps = (_machine_epsilon(params), state.hyperparams["eps"][1])
        return state._replace(hyperparams=state.hyperparams | {"eps": eps})

    return tx._replace(init=init)


def _rms(x):
    return safe_sqrt(jnp.mean(x**2))


def _mean_square(x, axis):
    return jnp.mean(x**2, axis=axis, keepdims=True)


def _clipping(update, d):
    """`max(1, rms(update) / d)`, with the mean of both slopes where they meet.

    The first update of a vector has a root mean square of 1 up to rounding. With `d=1`
    the rounding must not decide which slope the derivative takes.
    """
    ratio = _rms(update) / d
    meets = jnp.abs(ratio - 1) <= 16 * jnp.finfo(ratio.dtype).eps
    between = 1 + 0.5 * (ratio - jax.lax.stop_gradient(ratio))
    return jnp.where(meets, between, jnp.where(ratio > 1, ratio, 1))


def _machine_epsilon(params):
    """Torch's default `eps[0]`: one number, or a `PerLeaf` where dtypes differ."""
    default = jnp.result_type(float)

    def epsilon(param):
        return jnp.asarray(jnp.finfo(jnp.result_type(param)).eps, default)

    leaves = jax.tree.leaves(params)
    dtypes = {jnp.result_type(leaf) for leaf in leaves}
    if len(dtypes) == 1:
        return epsilon(leaves[0])
    return PerLeaf(jax.tree.map(epsilon, params))
