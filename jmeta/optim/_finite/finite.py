"""Finite derivatives for any optax transform."""

from typing import Any

import optax

from jmeta._core import validate
from jmeta._core.typing import PyTree
from jmeta.optim._finite.own import own, wanted
from jmeta.optim._finite.slopes import SLOPES
from jmeta.optim._finite.visitor import guarded


def finite(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Make any optax transform's derivatives finite where a gradient is exactly 0.

    A zero-initialised head or a dead ReLU gives gradients of exactly 0, and second
    moments of 0 with them. There most of optax's transforms have NaN derivatives,
    because the root of 0 has an infinite slope. The transforms of `jmeta.optim` need no
    such protection, and nearly all others have it in `inner_loop`; the table in
    `jmeta/optim/README.md` has them all. This is for what remains, such as
    `optax.radam`, whose derivative is NaN from the third step on, and for loops of your
    own.

    Every operation in the update whose slope can be infinite or NaN (roots,
    quotients, powers, logarithms, products with an operand that is not finite) gets
    slope 0 where it is. The updates and the state stay what they were, to the last bit
    under `jit` on CPU.

    Args:
        tx: Any transform, also one with hyperparameters in its state
            (`optax.inject_hyperparams`), a chain or a partition.

    Returns:
        A transform with the state of `tx`, whose derivatives of every order and in both
        modes are finite where its values are.

    Raises:
        TypeError: `tx` is no optax transform.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def loss(lr, tx_of_lr, params=jnp.array([1.0, 0.0])):
        ...     tx = tx_of_lr(lr)
        ...     grads = jnp.array([3.0, 0.0]) * params
        ...     return tx.update(grads, tx.init(params), params)[0].sum()
        >>> jax.grad(loss)(0.5, lambda lr: finite(optax.adam(lr))).round(4).item()
        -1.0

    Note:
        Where the root of a second moment multiplies a gradient of 0 the slope 0 is the
        exact limit. The true slope of Adam's update at a gradient of 0 remains
        `-lr / eps`, finite and huge. An operation with a custom derivative rule keeps
        it. `update` evaluates a trace of `tx.update`, so it is slow outside `jit`.
    """
    validate.instance(
        *("tx", tx, optax.GradientTransformation, "an optax transform"),
        use="Pass one such as `optax.adam(1e-3)`.",
    )

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        extras = wanted(tx, extra_args)

        def step(updates, state, params):
            return tx.update(updates, state, params, **extras)

        return guarded(step, SLOPES)(updates, state, params)

    return own(optax.GradientTransformationExtraArgs(tx.init, update))
