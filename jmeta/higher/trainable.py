"""Take an optimizer's settings out, to learn them, and put them back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey, GetAttrKey, KeyPath, SequenceKey

from jmeta._core import validate
from jmeta._core.tree import is_float, strongly_typed
from jmeta._core.typing import PyTree
from jmeta.higher._groups import group_labels, values_by_label
from jmeta.optim._finite.update_guard import is_marked_finite, mark_finite
from jmeta.optim.hyperparams import Assignment, assign, places


def get_trainable_opt_params(tx: optax.GradientTransformation) -> dict[str, Any]:
    """Take the numeric settings of an optimizer, in the form of an `override`.

    Args:
        tx: `jmeta.optim.*`, `optax.inject_hyperparams(...)(...)`, or
            `optax.partition` of them for parameter groups, with labels given as a
            function.

    Returns:
        `{name: [value for each parameter group]}`, with arrays as values and tuples of
        them for pairs. A name that only some groups have gets `{label: value}`.
        Booleans such as `nesterov` are fixed in the factory and left out. A schedule of
        a `jmeta.optim` optimizer counts with its first value; one that
        `optax.inject_hyperparams` computes anew in every update is left out.

    Raises:
        TypeError: `tx` is no transform.
        ValueError: `tx` keeps no settings in its state, or one of them twice.

    Example:
        >>> import jmeta
        >>> values = get_trainable_opt_params(jmeta.optim.adam(lr=0.5))
        >>> sorted(values), values["lr"][0].item(), len(values["betas"][0])
        (['betas', 'eps', 'lr', 'weight_decay'], 0.5, 2)
    """
    validate.transform("tx", tx)
    opt_state = tx.init({})
    found = places(opt_state)
    labels = group_labels(opt_state) or [None]
    trainable: dict[str, Any] = {}
    for name in dict.fromkeys(name for place in found for name in place.values):
        values = {}
        for label in labels:
            having = [
                place
                for place in found
                if name in place.values and (label is None or label in place.groups)
            ]
            if len(having) > 1:
                raise ValueError(
                    f"`{name}` occurs {len(having)} times in a parameter group of this"
                    " transform; take the values from `jmeta.optim.hyperparams.places`."
                )
            if having and _is_trainable(having[0], name):
                values[label] = strongly_typed(having[0].values[name])
        if values:
            every = len(values) == len(labels)
            trainable[name] = list(values.values()) if every else values
    if not trainable:
        raise ValueError(
            "This transform keeps no settings in its state. Use jmeta.optim, or wrap it"
            " with optax.inject_hyperparams."
        )
    return trainable


def _is_trainable(place, name):
    """Whether a setting is of floats and optax does not compute it in every update."""
    leaves = jax.tree.leaves(place.values[name])
    return name not in place.scheduled and all(map(is_float, leaves))


def apply_trainable_opt_params(
    tx: optax.GradientTransformation, values: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    """Make the same optimizer with other settings, such as learned ones.

    Args:
        tx: The optimizer, `jmeta.optim.*` or any transform with settings in its state.
        values: Settings by name, in a form that `get_trainable_opt_params` gives and
            `override` takes. Names that are left out keep their value.

    Returns:
        A new transform, whose state begins with these values. A value for a setting
        that follows a schedule replaces the schedule in all steps.

    Raises:
        TypeError: `tx` is no transform, or `values` no mapping.
        ValueError: An unknown name, or a value that does not fit; raised by the new
            transform's `init`.

    Example:
        >>> import jmeta
        >>> tx = apply_trainable_opt_params(jmeta.optim.sgd(), {"lr": [0.5]})
        >>> tx.init({}).hyperparams["lr"].item()
        0.5
    """
    validate.transform("tx", tx)
    use = "Take them from `get_trainable_opt_params(tx)`."
    validate.mapping("values", values, use=use)
    inner_update = optax.with_extra_args_support(tx).update

    def targets(opt_state, params):
        overrides = values_by_label(values, group_labels(opt_state))
        return assign(overrides, opt_state, 1, params)

    def init(params: PyTree) -> PyTree:
        opt_state = tx.init(params)
        first = jnp.zeros((), jnp.int32)
        for target in targets(opt_state, params):
            xs = jax.tree.map(lambda x: x[0], target.xs)
            opt_state = _set_at(opt_state, _path(target), target.at(first, xs))
        return opt_state

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        updates, new = inner_update(updates, state, params, **extra_args)
        for target in targets(state, params):
            # A schedule inside `tx` has moved the setting on; put the value back.
            new = _set_at(new, _path(target), _get_at(state, _path(target)))
        return updates, new

    new = optax.GradientTransformationExtraArgs(init, update)
    return mark_finite(new) if is_marked_finite(tx) else new


def _path(target: Assignment) -> KeyPath:
    return (*target.path, GetAttrKey("hyperparams"), DictKey(target.name))


def _get_at(node, path):
    for key in path:
        match key:
            case GetAttrKey():
                node = getattr(node, key.name)
            case DictKey():
                node = node[key.key]
            case SequenceKey():
                node = node[key.idx]
    return node


def _set_at(node, path, value):
    """Replace what stands at a path; unlike `jax.tree.map` this keeps dicts' order."""
    if not path:
        return value
    new = _set_at(_get_at(node, path[:1]), path[1:], value)
    match path[0]:
        case GetAttrKey(name):
            return node._replace(**{name: new})
        case DictKey(key):
            return node | {key: new}
        case SequenceKey(i):
            return type(node)([*node[:i], new, *node[i + 1 :]])
    raise AssertionError(path)
