"""Numeric settings of a transform as data: replaceable, learnable, schedulable.

A transform keeps its settings in its state, in a dict `hyperparams` under torch's
names. The value that stands there is the one that the next update uses, as in torch's
`param_groups`; a setting given as a schedule is advanced by every update.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._typing import PyTree

Setting = Any
"""A number, a scalar array, a schedule `step -> value`, a `PerLeaf`, or a pair."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerLeaf:
    """A setting with a value for each parameter: Meta-SGD, rates for each layer.

    Attributes:
        tree: A tree like the parameters, or a prefix of it, whose leaves are scalars
            or broadcast to their parameter.

    Example:
        >>> import jmeta
        >>> tx = jmeta.optim.sgd(lr=PerLeaf({"body": 0.25, "head": 0.5}))
        >>> params = {"body": {"w": jnp.ones(2)}, "head": jnp.ones(2)}
        >>> updates, _ = tx.update(params, tx.init(params), params)
        >>> updates["body"]["w"][0].item(), updates["head"][0].item()
        (-0.25, -0.5)
    """

    tree: PyTree


class Overridden(NamedTuple):
    """A setting replaced from outside for one update; the transform's own comes back.

    Attributes:
        value: What the update uses.
        own: What the transform goes on with; a schedule advances this one.
    """

    value: Setting
    own: Setting


def as_hyperparam(value: Setting, name: str = "") -> Setting:
    """Make a setting a strongly typed float array of at least float32.

    A weak type or a lower precision would decide the precision of the whole update.
    `PerLeaf` and tuples are converted leaf by leaf.

    Args:
        value: A number or an array.
        name: Its name, for messages.

    Returns:
        The same value as a `jax.Array`.

    Raises:
        TypeError: `value` is not a real number.
    """
    if isinstance(value, PerLeaf | tuple):
        return jax.tree.map(lambda part: as_hyperparam(part, name), value)
    dtype = getattr(value, "dtype", None)
    is_real = dtype is not None and (
        jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
    )
    if not (is_real or type(value) in (int, float)):
        raise TypeError(
            f"{f'`{name}`' if name else 'A hyperparameter'} must be a number, a real"
            f" array or a schedule `step -> value`; got {value!r}."
        )
    default = jnp.result_type(float)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        dtype = default
    dtype = jnp.promote_types(jnp.float32, jax.dtypes.canonicalize_dtype(dtype))
    # convert_element_type also makes a weak type strong
    return jax.lax.convert_element_type(value, dtype)


def check_ranges(
    settings: Mapping[str, Setting], **ranges: tuple[float, float]
) -> None:
    """Refuse numbers that torch refuses: each must lie in `low <= value < high`.

    Only plain numbers are looked at: a traced setting has no value yet, and a learned
    one may cross a bound.

    Args:
        settings: The constructor's settings by name.
        **ranges: `(low, high)` by name, for each entry of a pair alike.

    Raises:
        ValueError: A number lies outside.
    """
    for name, (low, high) in ranges.items():
        value = settings[name]
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not low <= number < high:
                bound = "" if math.isinf(high) else f" and below {high}"
                raise ValueError(
                    f"`{name}` must be at least {low}{bound}; got {value}."
                )


def initial_hyperparams(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """The `hyperparams` of a fresh state: each setting's value for the first update.

    A schedule's value is of the precision of what the schedule is made of.
    """
    hyperparams = {
        # a weakly typed step has no precision of its own
        name: as_hyperparam(_at_step(value, jnp.asarray(0)), name)
        for name, value in settings.items()
    }
    for name, value in hyperparams.items():
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, PerLeaf) and number.ndim:
                raise ValueError(
                    f"`{name}` must be a scalar; got shape {number.shape}. Give each"
                    " parameter its own value with `PerLeaf(tree)`."
                )
    return hyperparams


def advance_hyperparams(
    hyperparams: dict[str, Setting], settings: Mapping[str, Setting], step: jax.Array
) -> dict[str, Setting]:
    """The `hyperparams` after an update: schedules move on to `step`."""

    def advance(current, setting):
        if isinstance(setting, tuple):
            return tuple(map(advance, current, setting))
        if not callable(setting):
            return current
        value = setting(step_in_precision(step, current.dtype))
        return jnp.asarray(as_hyperparam(value), current.dtype)

    advanced = {}
    for name, value in hyperparams.items():
        if isinstance(value, Overridden):
            advanced[name] = value._replace(own=advance(value.own, settings[name]))
        else:
            advanced[name] = advance(value, settings[name])
    return advanced


def step_in_precision(step: jax.Array, dtype: Any) -> jax.Array:
    """The step as an integer whose quotients are of a setting's precision.

    With 64 bits enabled, the quotient of an int32 and a number is a float32.

    Args:
        step: An integer scalar.
        dtype: The setting's.

    Example:
        >>> (step_in_precision(jnp.asarray(3), jnp.float32) / 7).dtype.name
        'float32'
    """
    return step.astype(jnp.int64 if dtype == jnp.float64 else jnp.int32)


def current_hyperparams(hyperparams: Mapping[str, Setting]) -> dict[str, Setting]:
    """The values that the next update uses, with overrides in place."""
    return {
        name: value.value if isinstance(value, Overridden) else value
        for name, value in hyperparams.items()
    }


def hyperparams_at(hyperparams, path):
    """The values that apply to the parameter at `path`."""

    def pick(value):
        if isinstance(value, tuple):
            return tuple(map(pick, value))
        return _lookup(value.tree, path) if isinstance(value, PerLeaf) else value

    return {name: pick(v) for name, v in current_hyperparams(hyperparams).items()}


def _at_step(setting, step):
    if isinstance(setting, tuple):
        return tuple(_at_step(value, step) for value in setting)
    return setting(step) if callable(setting) else setting


def _lookup(tree, path):
    for prefix, value in tree_flatten_with_path(tree)[0]:
        if path[: len(prefix)] == prefix:
            return value
    raise ValueError(
        f"`PerLeaf` must have a value for every parameter; the one at"
        f" {keystr(path)!r} has none."
    )
