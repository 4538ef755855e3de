"""A rate that drops when a metric no longer improves."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.settings import is_plain
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import as_float, as_floats


class PlateauState(NamedTuple):
    """State of `reduce_lr_on_plateau`, under torch's names.

    Attributes:
        lr: The rate to use now, a float scalar.
        best: Best metric so far, a float scalar.
        num_bad_epochs: Metrics since the last better one, an int32 scalar.
        cooldown_counter: Metrics left in which none counts as bad, an int32 scalar.
    """

    lr: jax.Array
    best: jax.Array
    num_bad_epochs: jax.Array
    cooldown_counter: jax.Array


class ReduceLROnPlateau(NamedTuple):
    """The pair of pure functions that `reduce_lr_on_plateau` returns.

    Attributes:
        init: Function `() -> state`.
        update: Function `(metric, state) -> state`, with the next rate in `state.lr`.
    """

    init: Callable[[], PlateauState]
    update: Callable[[chex.Numeric, PlateauState], PlateauState]


def reduce_lr_on_plateau(
    lr: chex.Numeric,
    mode: str = "min",
    factor: chex.Numeric = 0.1,
    patience: int = 10,
    *,
    threshold: chex.Numeric = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: chex.Numeric = 0.0,
    eps: chex.Numeric = 1e-8,
) -> ReduceLROnPlateau:
    """Multiply the rate by `factor` when a metric stalls, as torch's ReduceLROnPlateau.

    A metric is better than `best` when it is below

        best * (1 - threshold)    with threshold_mode="rel"
        best - threshold          with threshold_mode="abs"

    and with `mode="max"` when it is above this value with the sign of `threshold`
    changed. Unlike the other schedules this one needs the metric, so it is a pair of
    functions. Their state contains the rate and fits in the carry of a scan.

    Args:
        lr: Initial rate. `lr`, `factor` and `min_lr` may be traced; they are
            differentiable.
        mode: `"min"` if the metric should fall, `"max"` if it should rise.
        factor: Factor below 1 that a drop applies to the rate.
        patience: Number of bad metrics in a row without a drop. The next one drops the
            rate.
        threshold: Margin by which a better metric must differ from `best`.
        threshold_mode: `"rel"` if `threshold` is a share of `best`, `"abs"` if it is in
            units of the metric.
        cooldown: Number of metrics after a drop that do not count as bad.
        min_lr: Lowest rate.
        eps: Smallest drop. A drop of this size or less is not applied.

    Returns:
        A pair of functions: `init() -> state` and `update(metric, state) -> state`.

    Raises:
        ValueError: `factor` is 1 or more, or a mode is none of torch's.

    Example:
        >>> plateau = reduce_lr_on_plateau(1.0, factor=0.5, patience=1)
        >>> state = plateau.init()
        >>> for metric in [3.0, 3.0, 3.0]:
        ...     state = plateau.update(metric, state)
        >>> float(state.lr)
        0.5

    Note:
        As in torch, a metric that is NaN is bad, a negative `best` with `"rel"` makes
        the bar easier to pass and not harder, and a drop that `eps` prevents starts the
        cooldown all the same.
    """
    validate.one_of("mode", mode, ("min", "max"))
    validate.one_of("threshold_mode", threshold_mode, ("rel", "abs"))
    validate.count("patience", patience)
    validate.count("cooldown", cooldown)
    if is_plain(factor) and factor >= 1:
        raise ValueError(f"`factor` must be less than 1; got {factor}.")
    lr, factor, threshold, min_lr, eps = as_floats(
        lr=lr, factor=factor, threshold=threshold, min_lr=min_lr, eps=eps
    )
    # A metric that should rise is compared as its negative, which should fall.
    sign = 1 if mode == "min" else -1

    def init() -> PlateauState:
        zero = jnp.zeros((), jnp.int32)
        worst = jnp.full((), sign * jnp.inf, jnp.result_type(float))
        return PlateauState(lr, worst, zero, zero)

    def update(metric: chex.Numeric, state: PlateauState) -> PlateauState:
        use = "Begin with `init()` and pass on what `update` returns."
        validate.instance("state", state, PlateauState, "a `PlateauState`", use=use)
        metric = as_float("metric", metric).astype(state.best.dtype)
        margin = sign * threshold
        with allow_mixed_dtypes(state.best, threshold):
            bar = state.best * (1 - margin)
            if threshold_mode == "abs":
                bar = state.best - margin
            better = sign * metric < sign * bar
        bad = jnp.where(better, 0, state.num_bad_epochs + 1)
        cooling = state.cooldown_counter > 0
        left = state.cooldown_counter - cooling.astype(jnp.int32)
        bad = jnp.where(cooling, 0, bad)

        drop = bad > patience
        with allow_mixed_dtypes(state.lr, factor, min_lr):
            lower = state.lr * factor
            lower = jnp.where(lower < min_lr, min_lr, lower).astype(state.lr.dtype)
        with allow_mixed_dtypes(lower, eps):
            far = state.lr - lower > eps
        return PlateauState(
            lr=jnp.where(drop & far, lower, state.lr),
            best=jnp.where(better, metric, state.best),
            num_bad_epochs=jnp.where(drop, 0, bad),
            cooldown_counter=jnp.where(drop, cooldown, left),
        )

    return ReduceLROnPlateau(init, update)
