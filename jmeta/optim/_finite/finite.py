"""Finite derivatives for any optax transform."""

from typing import Any

import optax

from jmeta._core import validate
from jmeta._core.typing import PyTree
from jmeta.optim._finite.slopes import SLOPES
from jmeta.optim._finite.update_guard import accepted_extras, mark_finite
from jmeta.optim._finite.visitor import guarded


def finite(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Make any optax transform's derivatives finite where a gradient is exactly 0.

    A zero-initialised head or a dead ReLU gives gradients of exactly 0, and so second
    moments of 0. There most of optax's transforms have NaN derivatives, because the
    root of 0 has an infinite slope. The transforms of `jmeta.optim` need no protection,
    and `inner_loop` protects nearly all others; the table in `jmeta/optim/README.md`
    lists them. Use `finite` for those that remain, such as `optax.radam`, whose
    derivative is NaN from the third step on, and in loops of your own.

    An operation in the update, such as a root, a quotient, a power, a logarithm, or a
    product with an operand that is not finite, gets slope 0 where its slope is infinite
    or NaN. The updates and the state do not change, to the last bit under `jit` on CPU.

    Args:
        tx: Any optax transform. It may be a chain, a partition, or have hyperparameters
            in its state (`optax.inject_hyperparams`).

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
        Where the root of a second moment multiplies a gradient of 0, the slope 0 is the
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
        extras = accepted_extras(tx, extra_args)

        def step(updates, state, params):
            return tx.update(updates, state, params, **extras)

        return guarded(step, SLOPES)(updates, state, params)

    return mark_finite(optax.GradientTransformationExtraArgs(tx.init, update))
