"""Find the Flax leaf of each torch array, and convert the array to its layout."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import tree_flatten_with_path

from jmeta._core import validate
from jmeta._core.tree import path_strings
from jmeta._core.typing import PyTree
from jmeta.models.from_torch._attention import (
    attention_arrays,
    attention_member,
    attention_modules,
)
from jmeta.models.from_torch._recurrent import (
    cell_arrays,
    is_recurrent,
    recurrent_module,
)
from jmeta.models.from_torch._sequential import in_sequentials, path_prefixes

Names = Mapping[str, str | None]
"""Flax path by torch name, both dotted; None ignores the torch name."""

Flatten = Mapping[str, Sequence[int]]
"""The shape `(channels, *space)` flattened before a Linear, by its torch name."""


def leaves_by_path(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves of a tree by dotted path, such as `layers.0.kernel`."""
    paths_leaves, _ = tree_flatten_with_path(tree)
    return {".".join(path_strings(path)): leaf for path, leaf in paths_leaves}


def leaves_of(name: str, tree: Any) -> dict[str, jax.Array]:
    """The leaves of a user's tree by dotted path, checked to be arrays.

    Args:
        name: The name of the argument, for messages.
        tree: The user's tree.
    """
    leaves = {} if isinstance(tree, nnx.Module) else leaves_by_path(tree)
    wrong = [x for x in leaves.values() if not hasattr(x, "shape")]
    if wrong or isinstance(tree, nnx.Module):
        got = f"{validate.kind(wrong[0])} in it" if wrong else validate.kind(tree)
        raise TypeError(
            f"`{name}` must be a tree of arrays, as `make_functional` returns it; got "
            f"{got}. Pass `_, {name} = jmeta.make_functional(module)`."
        )
    return leaves


def with_leaves(tree: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """Replace leaves by dotted path; keep the tree's dtypes and check shapes."""

    def replace(path, leaf):
        name = ".".join(path_strings(path))
        if name not in arrays:
            return leaf
        if arrays[name].shape != leaf.shape:
            raise ValueError(
                f"The leaf `{name}` must have shape {leaf.shape}; torch's array has "
                f"{arrays[name].shape} in Flax's layout. Check `names`, the sizes of "
                "the layers, and that a ConvTranspose has `transpose_kernel=True`."
            )
        # torch may later write into the memory of its tensors, so it is copied.
        return jnp.array(arrays[name], jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(replace, tree)


def match(
    arrays: Mapping[str, np.ndarray],
    leaves: Mapping[str, jax.Array],
    names: Names,
    flatten: Flatten,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Find the leaf of each torch array, and convert the array to its layout.

    Args:
        arrays: torch's arrays by name.
        leaves: Flax's leaves by dotted path.
        names: Flax path by torch name.
        flatten: The shape flattened before a Linear, by its torch name.

    Returns:
        The arrays in Flax's layout by dotted path, and the torch names that belong to
        no leaf.
    """
    check_flattened(arrays, flatten)
    prefixes = path_prefixes(leaves)
    found: dict[str, np.ndarray] = {}
    unmatched = []
    layers: dict[tuple[Convert, str], dict[str, np.ndarray]] = {}
    plain = lambda name: flax_path(name, prefixes, leaves, names) is not None
    attention = attention_modules(name for name in arrays if not plain(name))
    for name, array in arrays.items():
        layer = _layer(name, attention)
        if layer is not None:
            convert, module, short = layer
            layers.setdefault((convert, module), {})[short] = array
            continue
        path = flax_path(name, prefixes, leaves, names)
        if path is None:
            unmatched.append(name)
        elif path:
            _add_once(found, path, _layout(name, path, array, flatten))
    for (convert, module), parts in layers.items():
        path = translate(module, names)
        if path is None:
            continue
        path = in_sequentials(path, prefixes) if path else ""
        prefix = f"{path}." if path else ""
        inner = {k[len(prefix) :]: v for k, v in leaves.items() if k.startswith(prefix)}
        converted, leftover = convert(module, parts, inner)
        unmatched += leftover
        for leaf, array in converted.items():
            _add_once(found, prefix + leaf, array)
    return found, unmatched


Convert = Callable[..., tuple[dict[str, np.ndarray], list[str]]]
"""`(module, arrays, leaves)` to arrays by Flax path, and names that belong to none."""


def _layer(name: str, attention: set[str]) -> tuple[Convert, str, str] | None:
    """How to convert a recurrent or attention layer, whose arrays go together.

    Returns:
        The converter, the layer's torch name and the array's name in it; None for any
        other layer.
    """
    if is_recurrent(name):
        return cell_arrays, *recurrent_module(name)
    member = attention_member(name, attention)
    return None if member is None else (attention_arrays, *member)


def flax_path(
    name: str,
    prefixes: frozenset[str],
    leaves: Mapping[str, jax.Array],
    names: Names,
) -> str | None:
    """The leaf that a torch name belongs to; None without one, "" if it is ignored.

    Args:
        name: The torch name.
        prefixes: The leaves' paths and all their beginnings.
        leaves: Flax's leaves by dotted path.
        names: Flax path by torch name.
    """
    path = translate(name, names)
    if path is None:
        return ""
    path = in_sequentials(path, prefixes)
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
        validate.instance(argument, given, Mapping, "a dict by torch's names")
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
        if leaf == "in_proj_weight":
            channels = None
        if leaf != "weight" or array.ndim < 2:
            continue
        if array.ndim > 2:
            # In a transposed convolution, outputs are the second axis; the length of
            # the bias tells their number.
            bias = arrays.get(_join(parent, "bias"))
            channels = array.shape[0] if bias is None else len(bias)
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


def _add_once(found: dict[str, np.ndarray], path: str, array: np.ndarray) -> None:
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
