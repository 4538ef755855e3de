"""Which leaf of a Flax tree each torch array belongs to, and in which layout."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten_with_path

from jmeta._tree import path_strings
from jmeta._typing import PyTree
from jmeta.from_torch._recurrent import (
    cell_arrays,
    is_recurrent,
    recurrent_module,
)

Names = Mapping[str, str | None]
"""Flax path by torch name, both dotted; None leaves the torch name out."""

Flatten = Mapping[str, Sequence[int]]
"""What torch flattened before a Linear, `(channels, *space)`, by its torch name."""


def leaves_by_path(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves of a tree by dotted path, such as `layers.0.kernel`."""
    paths_leaves, _ = tree_flatten_with_path(tree)
    return {".".join(path_strings(path)): leaf for path, leaf in paths_leaves}


def with_leaves(tree: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """Replace leaves by dotted path, keeping the tree's dtypes and checking shapes."""

    def replace(path, leaf):
        name = ".".join(path_strings(path))
        if name not in arrays:
            return leaf
        if arrays[name].shape != leaf.shape:
            raise ValueError(
                f"The leaf `{name}` must have shape {leaf.shape}; torch's array has "
                f"{arrays[name].shape} in Flax's layout. Check `names` and the sizes "
                "of the layers."
            )
        # a copy, since torch goes on to write into the memory of its tensors
        return jnp.array(arrays[name], jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(replace, tree)


def match(
    arrays: Mapping[str, np.ndarray],
    leaves: Mapping[str, jax.Array],
    names: Names,
    flatten: Flatten,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Lay out torch's arrays for the leaves that they belong to.

    Returns:
        The arrays in Flax's layout by dotted path, and the torch names that belong to
        no leaf.
    """
    check_flattened(arrays, flatten)
    found: dict[str, np.ndarray] = {}
    unmatched = []
    cells: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if is_recurrent(name):
            module, leaf = recurrent_module(name)
            cells.setdefault(module, {})[leaf] = array
            continue
        path = flax_path(name, leaves, names)
        if path is None:
            unmatched.append(name)
        elif path:
            _add(found, path, _layout(name, path, array, flatten))
    for module, cell in cells.items():
        path = translate(module, names)
        prefix = f"{path}." if path else ""
        inner = {k[len(prefix) :] for k in leaves if k.startswith(prefix)}
        converted = {} if path is None else cell_arrays(module, cell, inner)
        if path is not None and not converted:
            unmatched.append(module)
        for leaf, array in converted.items():
            _add(found, prefix + leaf, array)
    return found, unmatched


def flax_path(name: str, leaves: Mapping[str, jax.Array], names: Names) -> str | None:
    """The leaf that a torch name belongs to: None for no leaf, "" when left out."""
    path = translate(name, names)
    if path is None:
        return ""
    if path in leaves:
        return path
    parent, leaf = _split(path)
    kinds = ("kernel", "scale", "embedding") if leaf == "weight" else ()
    candidates = [p for p in (_join(parent, kind) for kind in kinds) if p in leaves]
    return candidates[0] if len(candidates) == 1 else None


def translate(name: str, names: Names) -> str | None:
    """Replace the longest prefix of whole parts that `names` has an entry for."""
    parts = name.split(".") if name else []
    for length in range(len(parts), -1, -1):
        prefix = ".".join(parts[:length])
        if prefix in names:
            target = names[prefix]
            return None if target is None else _join(target, ".".join(parts[length:]))
    return name


def check_names(arrays: Sequence[str], names: Names, flatten: Flatten) -> None:
    """Refuse entries for modules that torch's names do not have."""
    cells = [recurrent_module(name)[0] for name in arrays if is_recurrent(name)]
    for argument, given in (("names", names), ("flatten", flatten)):
        for entry in given:
            if not any(translate(n, {entry: None}) is None for n in [*arrays, *cells]):
                raise ValueError(
                    f"`{argument}` has an entry for {entry!r}, but torch's names are "
                    f"{', '.join(arrays)}. Use one of them or its beginning."
                )


def check_flattened(arrays: Mapping[str, np.ndarray], flatten: Flatten) -> None:
    """Refuse to guess the order in which a Linear's inputs were flattened."""
    channels = None
    for name, array in arrays.items():
        parent, leaf = _split(name)
        if leaf != "weight" or array.ndim < 2:
            continue
        if array.ndim > 2:
            channels = array.shape[0]
            continue
        inputs = array.shape[1]
        if parent in flatten and math.prod(flatten[parent]) != inputs:
            raise ValueError(
                f"`flatten[{parent!r}]` must multiply to the Linear's {inputs} inputs; "
                f"got {tuple(flatten[parent])}."
            )
        flattened = channels and inputs > channels and inputs % channels == 0
        if flattened and parent not in flatten:
            raise ValueError(
                f"The Linear {parent!r} has {inputs} inputs after a convolution with "
                f"{channels} channels, and torch flattens (channels, *space) where "
                f"Flax flattens (*space, channels). Pass `flatten={{{parent!r}: "
                f"({channels}, height, width)}}`, or `({inputs},)` for no reordering."
            )
        channels = None


def _layout(name: str, path: str, array: np.ndarray, flatten: Flatten) -> np.ndarray:
    parent, leaf = _split(name)
    if leaf != "weight" or _split(path)[1] != "kernel" or array.ndim < 2:
        return array
    if parent in flatten and array.ndim == 2:
        array = array.reshape(-1, *flatten[parent])
        array = np.moveaxis(array, 1, -1)  # [out, *space, channels]
        array = array.reshape(array.shape[0], -1)
    return np.moveaxis(array, (0, 1), (-1, -2))  # [*space, in, out]


def _add(found: dict[str, np.ndarray], path: str, array: np.ndarray) -> None:
    if path in found:
        raise ValueError(
            f"Two torch names belong to the leaf `{path}`. If they are one tied "
            "parameter, leave one out with `names={...: None}`."
        )
    found[path] = array


def _split(path: str) -> tuple[str, str]:
    parent, _, leaf = path.rpartition(".")
    return parent, leaf


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
