"""What torch's optimizers share: settings that are data, one rule for every leaf.

An optimizer here is a `rule`: torch's single-tensor update, written for one parameter
with one gradient. `per_leaf` makes an optax transform of it whose state is a NamedTuple
with torch's field names, and whose numeric settings are leaves of that state, under
`hyperparams`. The value that stands there is the one the next update uses, as in
torch's `param_groups`; a setting given as a schedule is advanced by every update.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_flatten_with_path

from jmeta._typing import PyTree

Setting = Any
"""A number, a scalar array, a schedule `step -> value`, a `PerLeaf`, or a pair."""

Slot = Callable[[dict[str, Setting], jax.Array], jax.Array]
"""`(hp, param) -> initial value` of something that is remembered of a parameter."""

Rule = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
"""`(hp, step, grad, param, **slots) -> (update, new_slots)` for one parameter."""


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


def as_hyperparam(value: Setting) -> Setting:
    """Make a setting a strongly typed float array of at least float32.

    A weak type or a lower precision would decide the precision of the whole update.
    `PerLeaf` and tuples are converted leaf by leaf.

    Args:
        value: A number or an array.

    Returns:
        The same value as a `jax.Array`.

    Raises:
        TypeError: `value` is not a real number.
    """
    if isinstance(value, PerLeaf | tuple):
        return jax.tree.map(as_hyperparam, value)
    dtype = getattr(value, "dtype", None)
    if not (isinstance(value, int | float) or dtype is not None) or isinstance(
        value, bool
    ):
        raise TypeError(
            "A hyperparameter must be a number, an array or a schedule"
            f" `step -> value`; got {value!r}."
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


def per_leaf(
    state_type: type,
    slots: Mapping[str, Slot],
    rule: Rule,
    settings: Mapping[str, Setting],
) -> optax.GradientTransformationExtraArgs:
    """Make an optax transform of torch's update for a single parameter.

    Args:
        state_type: A NamedTuple of `step`, one field for each slot, `hyperparams`; a
            field that is no slot is None.
        slots: What the rule remembers of a parameter: `(hp, param) -> initial value`
            by the state's field names.
        rule: `(hp, step, grad, param, **slots) -> (update, new_slots)`, where `step`
            counts from 1 and `hp` holds the values that apply to this parameter.
        settings: Numeric settings by torch's names.

    Returns:
        A transform whose `update` needs `params`, keeps the dtypes of parameters and
        slots, and ignores extra arguments.
    """

    def init(params: PyTree) -> Any:
        hyperparams = initial_hyperparams(settings)
        paths_params, treedef = tree_flatten_with_path(params)
        rows = [
            {
                name: slot(_at_path(hyperparams, path), jnp.asarray(param))
                for name, slot in slots.items()
            }
            for path, param in paths_params
        ]
        return _state(jnp.zeros((), jnp.int32), rows, treedef, hyperparams)

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        del extra_args
        if params is None:
            raise ValueError(
                "`update` needs the parameters; call `update(grads, state, params)`."
            )
        step = state.step + 1
        paths_grads, treedef = tree_flatten_with_path(updates)
        columns = {name: treedef.flatten_up_to(getattr(state, name)) for name in slots}
        new_updates, rows = [], []
        for i, ((path, grad), param) in enumerate(
            zip(paths_grads, treedef.flatten_up_to(params), strict=True)
        ):
            row = {name: column[i] for name, column in columns.items()}
            hp = _at_path(state.hyperparams, path)
            new_update, new_row = rule(hp, step, grad, param, **row)
            new_updates.append(jnp.asarray(new_update, jnp.result_type(param)))
            rows.append({k: jnp.asarray(v, row[k].dtype) for k, v in new_row.items()})
        hyperparams = advance_hyperparams(state.hyperparams, settings, step)
        return treedef.unflatten(new_updates), _state(step, rows, treedef, hyperparams)

    def _state(step, rows, treedef, hyperparams):
        fields = dict.fromkeys(state_type._fields)
        for name in slots:
            fields[name] = treedef.unflatten([row[name] for row in rows])
        return state_type(**fields | {"step": step, "hyperparams": hyperparams})

    return optax.GradientTransformationExtraArgs(init, update)


def initial_hyperparams(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """The `hyperparams` of a fresh state: each setting's value for the first update."""
    hyperparams = {
        name: as_hyperparam(_at_step(value, jnp.zeros((), jnp.int32)))
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
        return jnp.asarray(as_hyperparam(setting(step)), current.dtype)

    advanced = {}
    for name, value in hyperparams.items():
        if isinstance(value, Overridden):
            advanced[name] = value._replace(own=advance(value.own, settings[name]))
        else:
            advanced[name] = advance(value, settings[name])
    return advanced


def current_hyperparams(hyperparams: Mapping[str, Setting]) -> dict[str, Setting]:
    """The values that the next update uses, with overrides in place."""
    return {
        name: value.value if isinstance(value, Overridden) else value
        for name, value in hyperparams.items()
    }


def _at_step(setting, step):
    if isinstance(setting, tuple):
        return tuple(_at_step(value, step) for value in setting)
    return setting(step) if callable(setting) else setting


def _at_path(hyperparams, path):
    """The values that apply to the parameter at `path`."""

    def pick(value):
        if isinstance(value, tuple):
            return tuple(map(pick, value))
        return _lookup(value.tree, path) if isinstance(value, PerLeaf) else value

    return {name: pick(v) for name, v in current_hyperparams(hyperparams).items()}


def _lookup(tree, path):
    for prefix, value in tree_flatten_with_path(tree)[0]:
        if path[: len(prefix)] == prefix:
            return value
    raise ValueError(
        f"`PerLeaf` must have a value for every parameter; the one at"
        f" {keystr(path)!r} has none."
    )
