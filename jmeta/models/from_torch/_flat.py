"""Convert the state of torch's L-BFGS, whose vectors join all parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jmeta._core.typing import PyTree
from jmeta.models.from_torch._match import (
    Flatten,
    Names,
    flax_path,
    leaves_by_path,
    match,
)
from jmeta.models.from_torch._sequential import path_prefixes


def is_flat(state: Any) -> bool:
    """Whether a state is one of `lbfgs`."""
    return "prev_flat_grad" in state._fields


def flat_state(
    entry: Mapping[str, Any],
    like: Any,
    params: PyTree,
    parameter_names: Sequence[str],
    names: Names,
    flatten: Flatten,
) -> Any:
    """Fill an `LBFGSState` from torch's entry for the first parameter.

    Args:
        entry: The entry, which torch keeps for all parameters together.
        like: The state to fill.
        params: The parameters that `like` was made for.
        parameter_names: torch's names of the parameters, in the optimizer's order.
        names: Flax path by torch name.
        flatten: The shape flattened before a Linear, by its torch name.
    """
    if "d" not in entry:
        return like  # nothing was updated yet
    if params is None:
        raise ValueError(
            "The vectors of L-BFGS join all parameters; pass `params=`, the parameters "
            "that `like` was made for."
        )
    order = _order(params, parameter_names, names, flatten)
    memory, kept = len(like.ro), len(entry["ro"])
    if kept > memory:
        raise ValueError(
            f"`history_size` must be at least {kept}, what torch remembers; got "
            f"{memory}. Make `like` with torch's `history_size`."
        )
    fields = {
        name: np.asarray(entry[name])
        for name in ("func_evals", "n_iter", "t", "H_diag", "prev_loss")
    }
    for name in ("d", "prev_flat_grad"):
        fields[name] = np.asarray(entry[name])[order]
    # Our memory ends with the newest pair, and begins with zeros until it is full.
    fields["ro"] = np.zeros(memory)
    for name in ("old_dirs", "old_stps"):
        fields[name] = np.zeros((memory, len(order)))
    for i in range(kept):
        row = memory - kept + i
        fields["ro"][row] = np.asarray(entry["ro"][i])
        for name in ("old_dirs", "old_stps"):
            fields[name][row] = np.asarray(entry[name][i])[order]
    return like._replace(
        **{k: jnp.array(v, getattr(like, k).dtype) for k, v in fields.items()}
    )


def _order(
    params: PyTree, parameter_names: Sequence[str], names: Names, flatten: Flatten
) -> np.ndarray:
    """The index in torch's flat vector of each entry of ours."""
    leaves = leaves_by_path(params)
    prefixes = path_prefixes(leaves)
    spans, start = {}, 0
    for name in parameter_names:
        path = flax_path(name, prefixes, leaves, names)
        if not path:
            raise ValueError(
                f"Each of torch's parameters must be a leaf of `params`; {name!r} is "
                "none. Pass the `names` that `parameters` got; an attention's joint "
                "projection, which Flax has in parts, cannot go on."
            )
        shape = leaves[path].shape
        leaf = name.rpartition(".")[2], path.rpartition(".")[2]
        if leaf == ("weight", "kernel"):
            shape = (shape[-1], shape[-2], *shape[:-2])
        size = int(np.prod(shape, dtype=int))
        spans[name] = np.arange(start, start + size).reshape(shape)
        start += size
    found, _ = match(spans, leaves, names, flatten)
    if len(found) < len(leaves):
        raise ValueError(
            "Each leaf of `params` must be one of torch's parameters; "
            f"{', '.join(sorted(set(leaves) - set(found)))} is none."
        )
    return np.concatenate([found[path].ravel() for path in leaves])
