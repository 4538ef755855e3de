"""Which transforms have finite derivatives by themselves, and a guard for the others."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import optax

from jmeta._typing import PyTree
from jmeta.optim._guarded import guarded
from jmeta.optim._singular import SINGULAR

SCOPE = "optax_update"
"""Name scope of the operations of a guarded update."""

Tx = TypeVar("Tx", bound=optax.GradientTransformation)


def own(tx: Tx) -> Tx:
    """Mark a transform of jmeta: it is written so that its derivatives are finite."""
    tx.update.is_own = True  # type: ignore[attr-defined] # functions have attributes
    return tx


def is_own(tx: optax.GradientTransformation) -> bool:
    """Whether a transform is marked; optax's combinations of marked ones are not."""
    return getattr(tx.update, "is_own", False)


def guarded_update(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The transform's `update`; one that is not jmeta's gets finite slopes.

    Operations of it at a point where their slope is infinite, such as the root of a
    second moment of 0, are constants there for derivatives of every order and in both
    modes. Values stay what they are. Unlike `optim.finite` this looks at operands
    alone, not at slopes, and at no products, which is cheap.

    Args:
        tx: Any transform.

    Returns:
        `update(updates, state, params, **extra_args)`; of a marked transform, its own.

    Example:
        >>> import jax.numpy as jnp
        >>> tx, params = optax.clip_by_global_norm(1.0), jax.numpy.ones(2)
        >>> def clipped(grads, update):
        ...     return update(grads, tx.init(params), params)[0].sum()
        >>> zero = jax.numpy.zeros(2)
        >>> jax.grad(clipped)(zero, tx.update).tolist()
        [nan, nan]
        >>> jax.grad(clipped)(zero, guarded_update(tx)).tolist()
        [1.0, 1.0]
    """
    if is_own(tx):
        return tx.update

    def update(updates: PyTree, state: Any, params: PyTree, **extra_args: Any) -> Any:
        def step(updates, state, params):
            return tx.update(updates, state, params, **extra_args)

        with jax.named_scope(SCOPE):
            return guarded(step, SINGULAR)(updates, state, params)

    return update
