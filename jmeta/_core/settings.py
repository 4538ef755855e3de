"""Numeric settings of a transform as data: replaceable, learnable, schedulable.

A transform keeps its settings in its state, in a dict `hyperparams` under torch's
names. As in torch's `param_groups`, the next update uses the value in that dict. Every
update advances a setting that was given as a schedule.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._core import validate
from jmeta._core.typing import PyTree

Setting = Any
"""A number, a scalar array, a schedule `step -> value`, a `PerLeaf`, or a pair."""

Pair = tuple[Setting, Setting] | list[Setting]
"""A setting of two values, given as a tuple or list; the state holds a tuple."""

FORMS = "a number, a scalar array, a schedule `step -> value` or a `PerLeaf`"
"""The forms of a single setting, in the words of a message."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerLeaf:
    """A setting with one value for each parameter, as in Meta-SGD or for layers.

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerStep:
    """A setting with one value for each step, along the leading axis of every leaf.

    For a single number a plain array of rank 1 is enough; `PerStep` is for `PerLeaf`
    trees whose leaves have a leading steps axis.

    Attributes:
        value: An array, or a `PerLeaf` of arrays, with leading axis `steps`.

    Example:
        >>> import jax.numpy as jnp
        >>> rates = PerStep(PerLeaf({"body": jnp.ones(5), "head": jnp.zeros(5)}))
        >>> rates.value.tree["body"].shape
        (5,)
    """

    value: Any


class Overridden(NamedTuple):
    """A setting that is replaced for one update, beside the transform's own value.

    Attributes:
        value: The value that the update uses.
        own: The transform's own value, which a schedule advances and which comes back
            after the update.
    """

    value: Setting
    own: Setting


def as_hyperparam(value: Setting, name: str = "", form: str = FORMS) -> Setting:
    """Make a setting a strongly typed float array of at least float32.

    A weak type or a lower precision would decide the precision of the whole update.
    `PerLeaf` and tuples are converted leaf by leaf.

    Args:
        value: A number or an array, a `PerLeaf` or a tuple of them.
        name: Name of the setting, for the message.
        form: The allowed forms of the setting, in the words of the message.

    Returns:
        The same value as a `jax.Array`, or the same tree of arrays.

    Raises:
        TypeError: `value` is not a real number.
    """
    if isinstance(value, PerLeaf | tuple):
        return jax.tree.map(lambda x: as_hyperparam(x, name, form), value)
    if not _is_real(value):
        which = f"`{name}`" if name else "A setting"
        raise TypeError(f"{which} must be {form}; got {validate.kind(value)}.")
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if jnp.finfo(dtype).bits < 32:
        dtype = jnp.float32
    # convert_element_type also makes a weak type strong
    return jax.lax.convert_element_type(value, dtype)


def pair(name: str, value: Any, size: int = 2) -> tuple[Setting, ...]:
    """Check a setting of several values and make it a tuple.

    Args:
        name: Name of the setting, for messages.
        value: The values, in a tuple or a list.
        size: The number of values that the setting must have.

    Returns:
        The values as a tuple.

    Raises:
        TypeError: `value` is neither a tuple nor a list.
        ValueError: `value` has another length than `size`.
    """
    names = ", ".join("abc"[:size])
    if not isinstance(value, tuple | list):
        raise TypeError(
            f"`{name}` must be a tuple or a list of {size} values; got"
            f" {validate.kind(value)}. Write `{name}=({names})`; each of them may be"
            f" {FORMS}."
        )
    if len(value) != size:
        raise ValueError(
            f"`{name}` must have {size} values; got {len(value)}: {value!r}. Write"
            f" `{name}=({names})`."
        )
    return tuple(value)


def check_settings(
    settings: Mapping[str, Setting],
    flags: Mapping[str, Any],
    pairs: Iterable[str] = (),
    /,
    **ranges: tuple[float, float],
) -> None:
    """Refuse settings of the wrong kind, and numbers that torch refuses.

    Only plain numbers are compared with the ranges: a traced setting has no value yet,
    and a learned one may cross a bound.

    Args:
        settings: A constructor's settings by name.
        flags: The constructor's arguments that must be True or False, by name.
        pairs: Names of the settings that are tuples.
        **ranges: `(low, high)` by name, where `low <= value < high` must hold; each
            entry of a tuple must be in the range.

    Raises:
        TypeError: A setting has none of the allowed forms, or a flag is no bool.
        ValueError: A number is outside its range, or an array is no scalar.
    """
    for name, value in settings.items():
        for one in value if name in pairs else (value,):
            _check_form(name, one)
            if name in ranges and is_plain(one):
                low, high = ranges[name]
                if not low <= one < high:
                    bound = "" if math.isinf(high) else f" and below {high}"
                    raise ValueError(
                        f"`{name}` must be at least {low}{bound}; got {value}."
                    )
    for name, value in flags.items():
        validate.flag(name, value)


def is_plain(value: Any) -> TypeGuard[int | float]:
    """Tell whether a setting is a plain number, known before tracing.

    Args:
        value: A setting in any form.
    """
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def initial_hyperparams(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Make the `hyperparams` of a fresh state: the values for the first update.

    A schedule's value has the precision of the numbers that the schedule is made of.

    Args:
        settings: A constructor's settings by name.

    Returns:
        An array for each setting, in a `PerLeaf` or a tuple where the setting is one.
    """
    hyperparams = {
        # a weakly typed step leaves the precision to the schedule's own numbers
        name: as_hyperparam(_at_step(value, jnp.asarray(0)), name)
        for name, value in settings.items()
    }
    for name, value in hyperparams.items():
        for number in value if isinstance(value, tuple) else (value,):
            _check_scalar(name, number)
    return hyperparams


def advance_hyperparams(
    hyperparams: dict[str, Setting], settings: Mapping[str, Setting], step: jax.Array
) -> dict[str, Setting]:
    """Make the `hyperparams` after an update, with schedules advanced to `step`.

    Args:
        hyperparams: The values that the update used, by name.
        settings: The constructor's settings by name, schedules among them.
        step: Index of the next update, an integer scalar.

    Returns:
        The values for the next update; an `Overridden` one stays, and its own value
        advances.
    """

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
    """Cast a step to an integer whose quotients have a setting's precision.

    With 64 bits enabled, the quotient of an int32 and a number is a float32.

    Args:
        step: An integer scalar.
        dtype: The floating-point dtype of the setting.

    Returns:
        The step as int64 for a float64 setting, else as int32.

    Example:
        >>> (step_in_precision(jnp.asarray(3), jnp.float32) / 7).dtype.name
        'float32'
    """
    return step.astype(jnp.int64 if dtype == jnp.float64 else jnp.int32)


def current_hyperparams(hyperparams: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the values that the next update uses, with overrides in place.

    Args:
        hyperparams: A state's values by name, some of them `Overridden`.
    """
    return {
        name: value.value if isinstance(value, Overridden) else value
        for name, value in hyperparams.items()
    }


def hyperparams_at(hyperparams, path):
    """Return the values that apply to one parameter.

    Args:
        hyperparams: A state's values by name.
        path: Key path of the parameter.
    """

    def pick(value):
        if isinstance(value, tuple):
            return tuple(map(pick, value))
        return _lookup(value.tree, path) if isinstance(value, PerLeaf) else value

    return {name: pick(v) for name, v in current_hyperparams(hyperparams).items()}


def _check_form(name, value):
    """Refuse a single setting, or an entry of a pair, of a form that is not allowed."""
    is_schedule = callable(value) and not inspect.isclass(value)
    leaves = jax.tree.leaves(value) if isinstance(value, PerLeaf) else [value]
    if not is_schedule and not all(map(_is_real, leaves)):
        raise TypeError(f"`{name}` must be {FORMS}; got {validate.kind(value)}.")
    if not is_schedule:
        _check_scalar(name, value)


def _check_scalar(name, value):
    if not isinstance(value, PerLeaf) and jnp.ndim(value):
        raise ValueError(
            f"`{name}` must be a scalar; got shape {jnp.shape(value)}. Give each"
            " parameter its own value with `PerLeaf(tree)`."
        )


def _is_real(value):
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, int | float) and not isinstance(value, bool)
    is_number = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(
        dtype, jnp.floating
    )
    return is_number and hasattr(value, "shape")


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
