"""Mark transforms whose derivatives are finite, and guard the updates of others."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import optax

from jmeta._core.typing import PyTree
from jmeta._jaxpr.notes import update_scope, with_note
from jmeta.optim._finite.singular import SINGULAR
from jmeta.optim._finite.visitor import guarded

NEEDS_FINITE = frozenset({"radam", "scale_by_radam"})
"""Functions of optax whose transforms `guarded_update` does not make finite.

They need `optim.finite`. The table in `jmeta/optim/README.md`, which is made by trying
each transform, lists them.
"""

_NOTE = (
    "derivatives of optax's {} are NaN at some steps, whatever the loss: wrap the"
    " transform in `jmeta.optim.finite`"
)

Tx = TypeVar("Tx", bound=optax.GradientTransformation)


def mark_finite(tx: Tx) -> Tx:
    """Mark a transform as one of jmeta's, written to have finite derivatives."""
    tx.update.marked_finite = True  # type: ignore[attr-defined] # functions have them
    return tx


def is_marked_finite(tx: optax.GradientTransformation) -> bool:
    """Whether a transform is marked. optax's combinations of marked ones are not."""
    return getattr(tx.update, "marked_finite", False)


def guarded_update(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The transform's `update`, with finite slopes unless the transform is marked.

    An operation at a point of infinite slope, such as the root of a second moment of 0,
    counts there as a constant for derivatives of every order and in both modes. Values
    do not change. Unlike `optim.finite` this looks only at operands and not at slopes,
    and leaves products alone, which makes it cheap.

    Args:
        tx: Any optax transform.

    Returns:
        `update(updates, state, params, **extra_args)`; that of a marked transform is
        returned as it is.

    Example:
        >>> import jax
        >>> tx, params = optax.clip_by_global_norm(1.0), jax.numpy.ones(2)
        >>> def clipped(grads, update):
        ...     return update(grads, tx.init(params), params)[0].sum()
        >>> zero = jax.numpy.zeros(2)
        >>> jax.grad(clipped)(zero, tx.update).tolist()
        [nan, nan]
        >>> jax.grad(clipped)(zero, guarded_update(tx)).tolist()
        [1.0, 1.0]
    """
    if is_marked_finite(tx):
        return tx.update

    def update(updates: PyTree, state: Any, params: PyTree, **extra_args: Any) -> Any:
        def step(updates, state, params):
            return tx.update(updates, state, params, **extra_args)

        with update_scope():
            return guarded(step, SINGULAR)(updates, state, params)

    missed = NEEDS_FINITE.intersection(_factory_names(tx.update))
    return (
        with_note(update, _NOTE.format(", ".join(sorted(missed)))) if missed else update
    )


def accepted_extras(
    tx: optax.GradientTransformation, extras: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The extra arguments that the transform's `update` takes by name."""
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        return {}
    parameters = inspect.signature(tx.update).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return extras
    return {p.name: extras[p.name] for p in parameters if p.name in extras}


def _factory_names(update: Any, seen: set[int] | None = None) -> Iterator[str]:
    """The names of the functions that made an update or one of the updates in it."""
    seen = set() if seen is None else seen
    if id(update) in seen:
        return
    seen.add(id(update))
    inner: Any = ()
    if inspect.ismethod(update):
        inner = [update.__func__, *vars(update.__self__).values()]
    elif inspect.isfunction(update):
        yield update.__qualname__.split(".")[0]
        inner = inspect.getclosurevars(update).nonlocals.values()
    elif isinstance(update, functools.partial):
        inner = [update.func, *update.args, *update.keywords.values()]
    elif isinstance(update, Mapping):
        inner = update.values()
    elif isinstance(update, tuple | list):
        inner = update
    for part in inner:
        yield from _factory_names(part, seen)
