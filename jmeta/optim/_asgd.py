"""Averaged stochastic gradient descent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jmeta._core.settings import Setting, check_settings
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf


class ASGDState(NamedTuple):
    """State of `asgd`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        eta: The next step size, a scalar for each parameter.
        mu: Weight of the next iterate in the average, a scalar for each parameter.
        ax: Average of the iterates, a tree like the parameters. It is the method's
            result.
        hyperparams: The next update's `lr, lambd, alpha, t0, weight_decay`.
    """

    step: jax.Array
    eta: PyTree
    mu: PyTree
    ax: PyTree
    hyperparams: dict[str, Setting]


def asgd(
    lr: Setting = 1e-2,
    lambd: Setting = 1e-4,
    alpha: Setting = 0.75,
    t0: Setting = 1e6,
    weight_decay: Setting = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Averaged SGD with torch's semantics, differentiable in every setting.

        grad  <- grad + weight_decay * param
        param <- param * (1 - lambd * eta) - eta * grad
        ax    <- ax + mu * (param - ax)
        eta   <- lr / (1 + lambd * lr * step)**alpha
        mu    <- 1 / max(1, step - t0)

    `eta` begins at `lr` and `mu` at 1, so `ax` is the last iterate until `t0`. Evaluate
    the model at `state.ax`.

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too.
        lambd: Decay rate of the parameters and of the step size `eta`.
        alpha: Exponent of the decay of the step size.
        t0: Number of updates before the averaging begins. The average is piecewise
            smooth in `t0`. At a whole number its derivative is the mean of those on
            both sides.
        weight_decay: L2 penalty; `weight_decay * param` is added to the gradient.
        maximize: Maximize the loss: the sign of each gradient is flipped.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = asgd(lr=0.5, lambd=0.0, t0=0.0)
        >>> params = jnp.array([1.0, 2.0])
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.ones(2), state, params)
        ...     params = params + updates
        >>> params.tolist(), state.ax.tolist()
        ([0.0, 1.0], [0.0, 1.0])

    Note:
        Derivatives pass through `eta` and `mu`; torch and `higher` hold them constant.
        A setting with an array for each parameter must be given to the constructor and
        not as a later override, since `eta` and `mu` have its shape.

    References:
        Polyak and Juditsky (1992), Acceleration of stochastic approximation by
        averaging, SIAM Journal on Control and Optimization 30(4).
    """
    settings = {
        "lr": lr,
        "lambd": lambd,
        "alpha": alpha,
        "t0": t0,
        "weight_decay": weight_decay,
    }
    inf = float("inf")
    check_settings(settings, {"maximize": maximize}, lr=(0, inf), weight_decay=(0, inf))

    # This rule follows `_single_tensor_asgd` in torch/optim/asgd.py.
    def rule(hp, step, grad, param, eta, mu, ax):
        lr, lambd = hp["lr"], hp["lambd"]
        count = step.astype(lr.dtype)
        grad = (-grad if maximize else grad) + hp["weight_decay"] * param
        # torch sets eta in the first update. Here `lr` may have been overridden since
        # `init`, so the first update reads it again.
        eta = jnp.where(step == 1, lr, eta)
        update = -lambd * eta * param - eta * grad
        ax = ax + mu * (param + update - ax)
        eta = lr / (1 + lambd * lr * count) ** hp["alpha"]
        mu = 1 / jnp.maximum(1, count - hp["t0"])
        return update, {"eta": eta, "mu": mu, "ax": ax}

    slots = {
        "eta": lambda hp, param: hp["lr"] + 0 * hp["lambd"] * hp["alpha"],
        "mu": lambda hp, param: jnp.ones_like(hp["t0"]),
        "ax": lambda hp, param: jnp.zeros_like(param),
    }
    return per_leaf(ASGDState, slots, rule, settings)
