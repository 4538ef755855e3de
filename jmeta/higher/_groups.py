"""Turn settings in the order of parameter groups into the form of `inner_loop`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jmeta._core.typing import PyTree
from jmeta.optim.hyperparams import places


def group_labels(opt_state: PyTree) -> list[Any]:
    """Labels of the parameter groups that have settings, in the order of their making.

    Args:
        opt_state: The state as `tx.init` gave it. A dict that has been through
            `jax.jit` or `jax.tree.map` has lost its order.

    Returns:
        The labels; empty for a transform without groups.

    Example:
        >>> import jmeta, optax
        >>> tx = optax.partition(
        ...     {"head": jmeta.optim.sgd(), "body": jmeta.optim.sgd()}, lambda p: p
        ... )
        >>> group_labels(tx.init({}))
        ['head', 'body']
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_partition)
    with_settings = {label for place in places(opt_state) for label in place.groups}
    return [
        label
        for node in nodes
        if _is_partition(node)
        for label in node.inner_states
        if label in with_settings
    ]


def values_by_label(
    override: Mapping[str, Any] | None, labels: Sequence[Any]
) -> dict[str, Any]:
    """Replace lists of values for the groups by values by label, for `inner_loop`.

    Args:
        override: Settings by name. A list has one value, or one for each group; a value
            that is no list stays as it is.
        labels: The labels of the parameter groups, in the order of the lists.

    Returns:
        Settings by name, each a single value or values by label.

    Raises:
        ValueError: A list of another length, or no value at all.

    Example:
        >>> values_by_label({"lr": [0.5], "momentum": [0.1, 0.2]}, ["head", "body"])
        {'lr': 0.5, 'momentum': {'head': 0.1, 'body': 0.2}}
    """
    converted = {}
    for name, value in (override or {}).items():
        if isinstance(value, Mapping) and not value:
            raise ValueError(
                f"`override` must have a value for `{name}`; got an empty mapping."
                " Leave the name out to keep what the optimizer has."
            )
        if isinstance(value, list):
            if len(value) not in (1, len(labels) or 1):
                groups = f"{len(labels)} parameter groups, in this order: {labels}"
                raise ValueError(
                    f"`override` must have one value for `{name}`, or one for each of"
                    f" the parameter groups; got {len(value)}, and the optimizer has"
                    f" {groups if labels else 'a single group'}."
                )
            one = len(value) == 1
            value = value[0] if one else dict(zip(labels, value, strict=True))
        converted[name] = value
    return converted


def _is_partition(node):
    return isinstance(getattr(node, "inner_states", None), dict)
