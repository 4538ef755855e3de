"""Convert a torch optimizer's state to that of the same jmeta optimizer."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, KeyPath, tree_map_with_path

from jmeta._core import validate
from jmeta._core.tree import widest
from jmeta._core.typing import PyTree
from jmeta.models.from_torch._factored import factored, machine_epsilon, unfactored
from jmeta.models.from_torch._flat import flat_state, is_flat
from jmeta.models.from_torch._match import (
    Flatten,
    Names,
    check_names,
    leaves_by_path,
    match,
    with_leaves,
)
from jmeta.models.from_torch._recurrent import is_recurrent
from jmeta.models.from_torch._state_dict import checked_optimizer


def optimizer_state(
    state_dict: Mapping[str, Any],
    like: PyTree,
    *,
    names: Names | None = None,
    flatten: Flatten | None = None,
    parameter_names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    params: PyTree = None,
) -> PyTree:
    """Put a torch optimizer's state into ours, to go on where torch stopped.

    Moments and buffers are converted like their parameters, into the fields of the same
    names. torch's settings become `hyperparams`. With the converted parameters, the
    next updates are those of torch.

        params    = from_torch.parameters(model.state_dict(), params, names=names)
        opt_state = from_torch.optimizer_state(
            optimizer.state_dict(), tx.init(params), names=names,
            parameter_names=[name for name, _ in model.named_parameters()],
        )
        run = inner_loop(apply_fn, params, tx, steps, opt_state=opt_state, ...)

    Args:
        state_dict: What torch's `optimizer.state_dict()` returned, arrays or CPU
            tensors.
        like: `tx.init(params)` of the same optimizer, alone or inside `optax.chain`.
            For several groups, make `tx` with `optim.param_groups`.
        names: Flax path by torch name, both dotted; pass the `names` of `parameters`.
        flatten: The shape `(channels, *space)` flattened before a Linear, by its torch
            name; pass the `flatten` of `parameters`.
        parameter_names: torch's names of the optimizer's parameters, in its order. Not
            needed if torch's optimizer was made with `named_parameters()`.
        groups: For several groups, our labels in the order of torch's groups.
        params: The parameters that `like` was made for. Only `lbfgs` needs them, since
            its state does not show their shapes.

    Returns:
        A state like `like`. A setting that is a schedule in `tx` goes on from torch's
        count of steps. For SGD and L-BFGS torch keeps no count, so that of `like`
        stays.

    Raises:
        TypeError: `state_dict` is not that of an optimizer, or another argument is of
            the wrong kind.
        ValueError: The optimizers, their groups or parameters do not fit together; or
            torch updated some parameters more often than others, while ours has one
            count of steps; or a parameter is recurrent, where torch trains two biases
            for each gate and Flax one; or Adafactor trained a kernel of more than two
            axes, which torch factors over other axes than we do.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from jmeta.optim import sgd
        >>> torch_state = {
        ...     "state": {0: {"momentum_buffer": np.full((3, 2), 4.0)}},
        ...     "param_groups": [
        ...         dict(lr=0.5, momentum=0.5, dampening=0, weight_decay=0, params=[0])
        ...     ],
        ... }
        >>> like = sgd().init({"kernel": jnp.zeros((2, 3))})
        >>> opt_state = optimizer_state(torch_state, like, parameter_names=["weight"])
        >>> (
        ...     opt_state.momentum_buffer["kernel"].shape,
        ...     opt_state.hyperparams["lr"].item(),
        ... )
        ((2, 3), 0.5)

    Note:
        Flags such as `nesterov` and `maximize` are not part of our state: give the
        transform the same ones. The same holds for Muon's `ns_steps` and
        `adjust_lr_fn`; here the default of the latter sees the transposed shape of a
        kernel, as `optim.muon` explains.
    """
    state_dict = checked_optimizer(state_dict)
    _check_names(names=names, flatten=flatten)
    for name, given in {"parameter_names": parameter_names, "groups": groups}.items():
        if given is not None:
            must = "a list of strings in torch's order"
            validate.instance(name, given, (list, tuple), must)
    names, flatten = names or {}, flatten or {}
    torch_groups = state_dict["param_groups"]
    by_index = _names_by_index(torch_groups, parameter_names)
    check_names(list(by_index.values()), names, flatten)
    group_of = _groups_by_label(like, torch_groups, groups)

    def convert(path: KeyPath, node: Any) -> Any:
        if not _has_hyperparams(node):
            return node
        group = group_of[_label(path)]
        entries = {by_index[i]: state_dict["state"].get(i, {}) for i in group["params"]}
        if is_flat(node):
            order = list(entries)
            new = flat_state(entries[order[0]], node, params, order, names, flatten)
        else:
            new = _converted_state(entries, node, names, flatten)
        return new._replace(hyperparams=_hyperparams(group, node))

    return tree_map_with_path(convert, like, is_leaf=_has_hyperparams)


def _converted_state(
    entries: Mapping[str, Mapping[str, Any]], like: Any, names: Names, flatten: Flatten
) -> Any:
    """Fill the fields of one of our states from torch's entry for each parameter."""
    kind = type(like).__name__
    slots = [
        field
        for field in like._fields
        if field not in ("step", "started", "hyperparams")
        and getattr(like, field) is not None
    ]
    entries = {
        name: {k: np.asarray(v) for k, v in entry.items() if v is not None}
        for name, entry in entries.items()
    }
    for name, entry in entries.items():
        unknown = set(entry) - {*slots, "step"}
        if unknown:
            raise ValueError(
                f"torch keeps {', '.join(sorted(unknown))} of {name!r}, which this "
                f"{kind} does not have. Make `like` with the same optimizer and flags."
            )
        if entry and is_recurrent(name):
            raise ValueError(
                f"{name!r} is recurrent: torch trains two biases a gate, Flax one, so "
                "that its optimizer state has no counterpart. Begin with `tx.init`."
            )
    if not any(entries.values()):
        return like  # nothing was updated yet
    steps = {int(entry["step"]) for entry in entries.values() if "step" in entry}
    if len(steps) > 1:
        raise ValueError(
            f"All parameters must have been updated equally often; torch counts "
            f"{sorted(steps)} steps. Keep parameters that are not trained out of "
            "`like`."
        )
    if "row_var" in slots:
        entries = {name: unfactored(entry) for name, entry in entries.items()}
        slots = [slot for slot in slots if slot != "col_var"]
    fields = {}
    for slot in slots:
        found = _slot_arrays(slot, entries, getattr(like, slot), kind, names, flatten)
        if slot == "row_var":
            fields |= factored(found, like)
        else:
            fields[slot] = with_leaves(getattr(like, slot), found)
    if "started" in like._fields:
        has_started = {
            k: np.asarray("momentum_buffer" in v) for k, v in entries.items() if v
        }
        found, _ = match(has_started, leaves_by_path(like.started), names, flatten)
        fields["started"] = with_leaves(like.started, found)
    if steps:
        fields["step"] = jnp.asarray(steps.pop(), like.step.dtype)
    return like._replace(**fields)


def _slot_arrays(
    slot: str,
    entries: Mapping[str, Mapping[str, np.ndarray]],
    like: PyTree,
    kind: str,
    names: Names,
    flatten: Flatten,
) -> dict[str, np.ndarray]:
    """The arrays of a slot by our paths, in Flax's layout."""
    arrays = {name: entry[slot] for name, entry in entries.items() if slot in entry}
    leaves = leaves_by_path(like)
    # torch makes a momentum buffer with the first gradient, so it may be missing.
    optional = slot == "momentum_buffer"
    found, unmatched = match(arrays, leaves, names, flatten)
    missing = [path for path in leaves if path not in found and not optional]
    if unmatched or missing:
        raise ValueError(
            f"`{slot}` of each parameter must have a counterpart in the {kind}; without"
            f" are, in torch: {', '.join(unmatched) or 'none'}; here: "
            f"{', '.join(missing) or 'none'}. Pass the `names` that `parameters` got, "
            "and `like` of the same parameters, optimizer and flags."
        )
    return found


def _hyperparams(group: Mapping[str, Any], like: Any) -> dict[str, Any]:
    missing = set(like.hyperparams) - set(group)
    if missing:
        raise ValueError(
            f"torch's group must have the settings of a {type(like).__name__}; it lacks"
            f" {', '.join(sorted(missing))}. Make `like` with the same optimizer."
        )

    def convert(old, new):
        if isinstance(new, tuple | list):
            return tuple(map(convert, old, new))
        if new is None:
            return machine_epsilon(like, old)
        return jnp.array(np.asarray(new), widest(*jax.tree.leaves(old)))

    return {name: convert(old, group[name]) for name, old in like.hyperparams.items()}


def _check_names(**dicts):
    for name, given in dicts.items():
        must = "a dict by torch's names, as `parameters` got it,"
        validate.instance(name, given, (Mapping, type(None)), f"{must} or None")


def _names_by_index(
    groups: Sequence[Mapping[str, Any]], parameter_names: Sequence[str] | None
) -> dict[int, str]:
    indices = [i for group in groups for i in group["params"]]
    if parameter_names is None:
        if not all("param_names" in group for group in groups):
            raise ValueError(
                "torch's optimizer state has no names; pass `parameter_names=[name for "
                "name, _ in model.named_parameters()]`, in the optimizer's order."
            )
        parameter_names = [name for group in groups for name in group["param_names"]]
    if len(parameter_names) != len(indices):
        raise ValueError(
            f"`parameter_names` must name the optimizer's {len(indices)} parameters; "
            f"got {len(parameter_names)} names."
        )
    return dict(zip(indices, parameter_names, strict=True))


def _groups_by_label(
    like: PyTree,
    torch_groups: Sequence[Mapping[str, Any]],
    groups: Sequence[str] | None,
) -> dict[Any, Mapping[str, Any]]:
    """The torch group for the label of each of our states; None for a lone one."""
    labels: list[Any] = []
    tree_map_with_path(
        lambda path, node: labels.append(_label(path)) if _has_hyperparams(node) else 0,
        like,
        is_leaf=_has_hyperparams,
    )
    if not labels:
        raise ValueError(
            "`like` must be `tx.init(params)` of an optimizer of `jmeta.optim`; got"
            f" {validate.kind(like)}, with no settings in it."
        )
    given = list(groups) if groups is not None else [None]
    if sorted(labels, key=str) != sorted(given, key=str):
        raise ValueError(
            "`groups` must list the labels of the states in `like`, in the order of "
            f"torch's groups: {labels} in some order; got {groups}."
        )
    if len(torch_groups) != len(given):
        raise ValueError(
            f"torch's optimizer has {len(torch_groups)} groups, `like` {len(given)}. "
            "Make `like` with `optim.param_groups`, a label for each."
        )
    return dict(zip(given, torch_groups, strict=True))


def _label(path: KeyPath) -> Any:
    """The label of the innermost parameter group around a place in a state."""
    label = None
    for outer, inner in itertools.pairwise(path):
        if outer == GetAttrKey("inner_states") and isinstance(inner, DictKey):
            label = inner.key
    return label


def _has_hyperparams(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "_fields")
