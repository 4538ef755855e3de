"""Numeric settings of a transform as data: replaceable, learnable, schedulable.

A transform keeps its settings in its state, in a dict `hyperparams` under torch's
names. The value that stands there is the one that the next update uses, as in torch's
`param_groups`; a setting given as a schedule is advanced by every update.
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
"""A setting of two values; state and rules have it as a tuple."""

FORMS = "a number, a scalar array, a schedule `step -> value` or a `PerLeaf`"
"""What a single setting may be, in the words of a message."""


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerStep:
    """A setting with a value for each step, along the leading axis of every leaf.

    A plain array of rank 1 says the same for a single number; this is for `PerLeaf`
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
    """A setting replaced from outside for one update; the transform's own comes back.

    Attributes:
        value: What the update uses.
        own: What the transform goes on with; a schedule advances this one.
    """

    value: Setting
    own: Setting


def as_hyperparam(value: Setting, name: str = "", form: str = FORMS) -> Setting:
    """Make a setting a strongly typed float array of at least float32.

    A weak type or a lower precision would decide the precision of the whole update.
    `PerLeaf` and tuples are converted leaf by leaf.

    Args:
        value: A number or an array.
        name: The setting's name, for the message.
        form: What it may be, for the message.

    Returns:
        The same value as a `jax.Array`.

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
    """A setting of several values, given as a tuple or a list, as a tuple.

    Args:
        name: Its name, for messages.
        value: The tuple or list.
        size: How many values it has.

    Raises:
        TypeError: It is neither a tuple nor a list.
        ValueError: It has another number of values.
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
        settings: The constructor's settings by name.
        flags: Its arguments that are True or False.
        pairs: The settings that are tuples, see `pair`.
        **ranges: `low <= value < high` by name, for each entry of a pair alike.

    Raises:
        TypeError: A setting that is none, a flag that is no bool.
        ValueError: A number outside its range, an array that is no scalar.
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
    """Whether a setting is a number that is known before tracing."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


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
            _check_scalar(name, number)
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


def _check_form(name, value):
    """A single setting, or an entry of a pair, as a constructor takes it."""
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
