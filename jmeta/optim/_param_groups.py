"""Parameter groups."""

from collections.abc import Callable, Hashable, Mapping

import optax
from jax.tree_util import tree_map_with_path

from jmeta._core import validate
from jmeta._core.tree import path_strings
from jmeta._core.typing import Path, PyTree
from jmeta.optim._finite.update_guard import is_marked_finite, mark_finite


def param_groups(
    groups: Mapping[str, optax.GradientTransformation],
    labels: Callable[[Path], str],
) -> optax.GradientTransformationExtraArgs:
    """Give each group of parameters its own optimizer, as torch's `param_groups`.

    This is `optax.partition` with labels made from paths. The groups may differ in
    settings, flags or algorithm. A setting of one group is overridden by label,
    `hyperparams={"lr": {"head": 0.1}}`; a plain value applies to every group that has
    the setting.

    Plain data does here what torch's methods do:

        torch                       here
        param_groups                state.inner_states: {label: state of the group}
        param_groups[i]["lr"]       state.inner_states[label].inner_state.hyperparams
        param_groups[i]["lr"] = x   hyperparams={"lr": {label: x}} of `inner_loop`
        add_param_group             a new `param_groups` and its `init`; the groups
                                    that stay keep their entry of `inner_states`
        state_dict                  the state: a pytree, saved as any other
        load_state_dict             pass the state on; `opt_state=` of `inner_loop`
        a frozen group              {label: optax.set_to_zero()}

    Args:
        groups: Optimizer of each group by its label.
        labels: `path -> label` of the parameter at that path, a tuple of strings such
            as `("head", "kernel")`.

    Returns:
        A transform whose state is an `optax.PartitionState`.

    Raises:
        TypeError: `groups` is no dict of optimizers, `labels` no function.
        ValueError: `groups` is empty or, at `init` or `update`, a label has no
            optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> from jmeta.optim import sgd
        >>> tx = param_groups(
        ...     {"head": sgd(lr=0.5), "rest": sgd(lr=0.25, momentum=0.5)},
        ...     labels=lambda path: "head" if path[0] == "head" else "rest",
        ... )
        >>> params = {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates["body"]["w"].tolist(), updates["head"]["w"].tolist()
        ([-0.25, -0.25], [-0.5, -0.5])
        >>> state.inner_states["rest"].inner_state.hyperparams["momentum"].item()
        0.5

    Note:
        In torch a group takes what it does not name from the optimizer's defaults;
        here each optimizer is written out. The order of `groups` has no effect.
    """
    validate.instance(
        *("groups", groups, Mapping, "a dict of optimizers by label"),
        use='Write `param_groups({"head": sgd(), "rest": adam()}, labels)`.',
    )
    if not groups:
        raise ValueError("`groups` must have at least one optimizer; got none.")
    for name, tx in groups.items():
        validate.instance(
            *(f"groups[{name!r}]", tx, optax.GradientTransformation),
            *("an optax transform",),
            use="Write `{label: sgd(lr=0.1)}`, an optimizer for each label.",
        )
    validate.function(
        *("labels", labels),
        use="Give one from a path, such as `('head', 'kernel')`, to a label.",
    )

    def label(path, _):
        names = path_strings(path)
        found = labels(names)
        if not isinstance(found, Hashable) or found not in groups:
            raise ValueError(
                f"`labels` must return one of {list(groups)}; for the parameter at"
                f" {names} it returned {found!r}. Add that group or change `labels`."
            )
        return found

    def label_tree(tree: PyTree) -> PyTree:
        return tree_map_with_path(label, tree)

    transforms: dict[Hashable, optax.GradientTransformation] = {**groups}
    tx = optax.partition(transforms, label_tree)
    return mark_finite(tx) if all(map(_needs_no_guard, groups.values())) else tx


def _needs_no_guard(tx: optax.GradientTransformation) -> bool:
    """Whether the derivatives of a transform are finite without `guarded_update`."""
    frozen = getattr(tx.update, "__qualname__", "").startswith("set_to_zero.")
    return frozen or is_marked_finite(tx)
