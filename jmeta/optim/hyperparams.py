"""Find, read and replace the hyperparameters that stand in any optimizer state."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey, KeyPath, tree_flatten_with_path

from jmeta._core.settings import Overridden, PerLeaf, Setting
from jmeta._core.typing import PyTree
from jmeta.optim._per_step import per_step


class Place(NamedTuple):
    """Where a dict of hyperparameters stands in an optimizer state.

    Attributes:
        path: Key path of the node that has the dict.
        groups: Labels of the parameter groups around it (`optax.partition`).
        names: Keys of the named parts around it (`optax.named_chain`).
        values: Value of each hyperparameter by name.
        scheduled: Names of those that optax computes anew in every update.
    """

    path: KeyPath
    groups: tuple[Any, ...]
    names: tuple[Any, ...]
    values: Mapping[str, Setting]
    scheduled: tuple[str, ...]


class Assignment(NamedTuple):
    """The values of one hyperparameter in one place at each step.

    Attributes:
        path: Key path of the node that has the hyperparameter.
        name: Name of the hyperparameter.
        xs: Values per step with leading axis `steps`, or None.
        at: `(step, x) -> value`, where `x` is that step's slice of `xs`.
    """

    path: KeyPath
    name: str
    xs: PyTree
    at: Callable[[jax.Array, PyTree], Setting]


def places(opt_state: PyTree) -> list[Place]:
    """List the places in a state that have hyperparameters.

    Args:
        opt_state: State of any optax transform.

    Returns:
        The places, inner ones before those around them.

    Example:
        >>> import jmeta, optax
        >>> tx = optax.chain(optax.clip(1.0), jmeta.optim.sgd(lr=0.5))
        >>> [sorted(place.values) for place in places(tx.init({}))]
        [['dampening', 'lr', 'momentum', 'weight_decay']]
    """
    found: list[Place] = []

    def visit(path, node):
        groups = tuple(
            b.key
            for a, b in itertools.pairwise(path)
            if a == GetAttrKey("inner_states") and isinstance(b, DictKey)
        )
        names = [k.key for k in path if isinstance(k, DictKey) and k.key not in groups]
        scheduled = tuple(getattr(node, "hyperparams_states", None) or ())
        found.append(Place(path, groups, tuple(names), node.hyperparams, scheduled))
        return node

    _map_nodes(visit, opt_state)
    return found


def assign(
    hyperparams: Mapping[str, Any], opt_state: PyTree, steps: int, params: PyTree
) -> list[Assignment]:
    """Turn overrides that a user wrote into one assignment for each place.

    Args:
        hyperparams: Overrides by name: a number, an array of shape `[steps]`, a
            callable `step -> value`, a tuple or a list for a pair, `PerLeaf`,
            `PerStep`, or `{label: override}` for parameter groups and named parts.
        opt_state: State whose hyperparameters are overridden.
        steps: Number of steps of the loop.
        params: Parameters that a `PerLeaf` must match.

    Returns:
        The assignments, in the order of `hyperparams`.

    Raises:
        ValueError: A name or label does not occur or occurs more than once, or a value
            has a wrong form or length.
    """
    found = places(opt_state)
    assignments = []
    for name, value in hyperparams.items():
        having = [place for place in found if name in place.values]
        if not having:
            raise ValueError(_unknown_name(name, found))
        labelled = value if isinstance(value, dict) else {None: value}
        for label, part in labelled.items():
            chosen = [p for p in having if label is None or label in p.groups + p.names]
            _check_targets(name, label, chosen, having)
            for place in chosen:
                if name in place.scheduled:
                    raise ValueError(
                        f"`{name}` follows a schedule inside optax.inject_hyperparams,"
                        " which ignores an override; build the transform with a number."
                    )
                own = _own(place.values[name])
                xs, at = per_step(name, part, own, steps, params)
                assignments.append(Assignment(place.path, name, xs, at))
    targets = [(a.path, a.name) for a in assignments]
    for path, name in targets:
        if targets.count((path, name)) > 1:
            raise ValueError(f"`{name}` is overridden twice in one parameter group.")
    return assignments


def override(
    opt_state: PyTree, assignments: Iterable[Assignment], step: jax.Array, xs: PyTree
) -> PyTree:
    """Put each assignment's value for this step into the state.

    Args:
        opt_state: State before the update.
        assignments: Overrides in place.
        step: Index of the step, from 0.
        xs: For each assignment, this step's slice of its `xs`.

    Returns:
        The state. In states of jmeta each value comes as an `Overridden`, with the
        transform's own value beside it.
    """
    values = {
        (a.path, a.name): a.at(step, x) for a, x in zip(assignments, xs, strict=True)
    }

    def replace(path, node):
        new = dict(node.hyperparams)
        for name, own in node.hyperparams.items():
            if (path, name) in values:
                value = values[path, name]
                if _is_optax(node) and isinstance(value, PerLeaf):
                    raise ValueError(
                        f"`{name}` in optax.inject_hyperparams is one number for all"
                        " parameters; a `PerLeaf` needs a transform of jmeta.optim."
                    )
                new[name] = value if _is_optax(node) else Overridden(value, own)
        return node._replace(hyperparams=new)

    return _map_nodes(replace, opt_state) if values else opt_state


def restore(
    opt_state: PyTree, before: PyTree, assignments: Iterable[Assignment]
) -> PyTree:
    """Put the transform's own values back after an update with overrides.

    Args:
        opt_state: State after the update.
        before: State before `override`.
        assignments: Overrides that were in place.

    Returns:
        The state after the update with its own hyperparameters.
    """
    overridden = {(a.path, a.name) for a in assignments}
    own = {place.path: place.values for place in places(before)}

    def put_back(path, node):
        new = dict(node.hyperparams)
        for name, value in node.hyperparams.items():
            if isinstance(value, Overridden):
                new[name] = value.own
            elif (path, name) in overridden:
                new[name] = own[path][name]
        return node._replace(hyperparams=new)

    return _map_nodes(put_back, opt_state) if overridden else opt_state


def stop_gradient(opt_state: PyTree) -> PyTree:
    """Stop the derivative through a state, but not through its hyperparameters."""
    own = {place.path: place.values for place in places(opt_state)}
    return _map_nodes(
        lambda path, node: node._replace(hyperparams=own[path]),
        jax.lax.stop_gradient(opt_state),
    )


def without_hyperparams(opt_state: PyTree) -> PyTree:
    """The state with None for each dict of hyperparameters, to compare structures."""
    return _map_nodes(lambda path, node: node._replace(hyperparams=None), opt_state)


def _map_nodes(fun, tree, path=()):
    """Apply `fun(path, node)` to every node with hyperparameters, inner ones first.

    A node is a NamedTuple with a dict `hyperparams`; `fun` returns its replacement.
    """
    paths_leaves, treedef = tree_flatten_with_path(tree, is_leaf=_is_node)
    leaves = []
    for sub, leaf in paths_leaves:
        if _is_node(leaf):
            here = path + sub
            inside = {
                field: _map_nodes(fun, getattr(leaf, field), (*here, GetAttrKey(field)))
                for field in leaf._fields
                if field not in ("hyperparams", "hyperparams_states")
            }
            leaf = fun(here, leaf._replace(**inside))
        leaves.append(leaf)
    return treedef.unflatten(leaves)


def _is_node(x):
    return hasattr(x, "_fields") and isinstance(getattr(x, "hyperparams", None), dict)


def _is_optax(node):
    return hasattr(node, "hyperparams_states")


def _own(value):
    return value.own if isinstance(value, Overridden) else value


def _unknown_name(name, found):
    valid = sorted({n for place in found for n in place.values})
    if not valid:
        return (
            f"`hyperparams` has no entry {name!r}: this transform keeps none in its"
            " state. Use jmeta.optim, or wrap it with optax.inject_hyperparams."
        )
    hint = {"learning_rate": "lr", "lr": "learning_rate", "b1": "betas", "b2": "betas"}
    use = f" Use `{hint[name]}`." if hint.get(name) in valid else ""
    listed = ", ".join(f"`{n}`" for n in valid)
    return f"`hyperparams` has no entry {name!r}; this optimizer has {listed}.{use}"


def _check_targets(name, label, chosen, having):
    if not chosen:
        labels = sorted({str(x) for p in having for x in p.groups + p.names})
        raise ValueError(
            f"`{name}` has no group or part labelled {label!r}; there are {labels}."
        )
    groups = [place.groups for place in chosen]
    if len(set(groups)) < len(groups):
        raise ValueError(
            f"`{name}` occurs {len(groups)} times in this transform. Tell them apart by"
            " building it with optax.named_chain and overriding"
            f' {{"{name}": {{part: value}}}}.'
        )
