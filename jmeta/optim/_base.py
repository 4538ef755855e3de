"""What torch's optimizers share: one rule for every parameter.

An optimizer here is a `rule`: torch's single-tensor update, written for one parameter
with one gradient. `per_leaf` makes an optax transform of it whose state is a NamedTuple
with torch's field names, and whose numeric settings are leaves of that state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_flatten_with_path

from jmeta._core.settings import (
    Setting,
    advance_hyperparams,
    hyperparams_at,
    initial_hyperparams,
)
from jmeta._core.tree import allow_mixed_dtypes
from jmeta._core.typing import PyTree
from jmeta.optim._finite.update_guard import mark_finite

Slot = Callable[[dict[str, Setting], jax.Array], jax.Array | None]
"""`(hp, param) -> initial value` of a field of the state, None to leave it out."""

Rule = Callable[..., tuple[jax.Array, Mapping[str, jax.Array | None]]]
"""`(hp, step, grad, param, **slots) -> (update, new_slots)` for one parameter."""


def per_leaf(
    state_type: type,
    slots: Mapping[str, Slot],
    rule: Rule,
    settings: Mapping[str, Setting],
) -> optax.GradientTransformationExtraArgs:
    """Make an optax transform of torch's update for a single parameter.

    Args:
        state_type: NamedTuple with the fields `step`, `hyperparams` and one for each
            slot. A field that is no slot is None.
        slots: What the rule stores for each parameter: functions
            `(hp, param) -> initial value` by the state's field names.
        rule: `(hp, step, grad, param, **slots) -> (update, new_slots)`, where `step`
            counts from 1 and `hp` holds the values that apply to this parameter.
        settings: Numeric settings of the optimizer by torch's names.

    Returns:
        A transform whose `update` requires `params`, keeps the dtypes of parameters
        and slots, and ignores extra arguments.
    """

    def init(params: PyTree) -> Any:
        hyperparams = initial_hyperparams(settings)
        paths_params, treedef = tree_flatten_with_path(params)
        rows = []
        for path, param in paths_params:
            hp = hyperparams_at(hyperparams, path)
            with allow_mixed_dtypes(hp, param):
                rows.append(
                    {k: slot(hp, jnp.asarray(param)) for k, slot in slots.items()}
                )
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
            hp = hyperparams_at(state.hyperparams, path)
            with allow_mixed_dtypes(hp, grad, param, row):
                new_update, new_row = rule(hp, step, grad, param, **row)
            new_updates.append(jnp.asarray(new_update, jnp.result_type(param)))
            rows.append({k: _cast_like(v, row[k]) for k, v in new_row.items()})
        hyperparams = advance_hyperparams(state.hyperparams, settings, step)
        return treedef.unflatten(new_updates), _state(step, rows, treedef, hyperparams)

    def _state(step, rows, treedef, hyperparams):
        fields = dict.fromkeys(state_type._fields)
        for name in slots:
            fields[name] = treedef.unflatten([row[name] for row in rows])
        return state_type(**fields | {"step": step, "hyperparams": hyperparams})

    return mark_finite(optax.GradientTransformationExtraArgs(init, update))


def scalar_settings(optimizer: str, hp: dict[str, Setting], *names: str) -> None:
    """Refuse an array where a rule takes one number for a whole parameter.

    Args:
        optimizer: Name of the constructor, for the message.
        hp: Settings that apply to one parameter, by name.
        *names: Names of the settings that must be scalars.

    Raises:
        ValueError: A `PerLeaf` gives one of them a value for each entry.
    """
    for name in names:
        for value in jax.tree.leaves(hp[name]):
            if jnp.ndim(value):
                raise ValueError(
                    f"`{name}` of `{optimizer}` must be one number for a parameter; got"
                    f" shape {jnp.shape(value)}. Use scalars in the `PerLeaf`."
                )


def _cast_like(new, old):
    """`new` in the dtype of `old`, so that a state keeps its dtypes."""
    return None if old is None else jnp.asarray(new, old.dtype)
