"""Convert torch's attention weights to the layout of Flax's attention."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_JOINT_PROJECTION = ("in_proj_weight", "in_proj_bias")
_SEPARATE_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_OUTPUT_PROJECTION = {"out_proj.weight": "out.kernel", "out_proj.bias": "out.bias"}
_LEAVES = (*_JOINT_PROJECTION, *_SEPARATE_PROJECTIONS, "bias_k", "bias_v")
_SIDES = ("query", "key", "value")


def attention_modules(names: Iterable[str]) -> set[str]:
    """The names of the attention layers among torch's parameters.

    Example:
        >>> attention_modules(["a.in_proj_weight", "a.out_proj.bias", "fc.weight"])
        {'a'}
    """
    split = (name.rpartition(".") for name in names)
    return {module for module, _, leaf in split if leaf in _LEAVES}


def attention_member(name: str, modules: Iterable[str]) -> tuple[str, str] | None:
    """The attention layer that a name belongs to, and its short name there.

    Example:
        >>> attention_member("a.out_proj.bias", {"a"}), attention_member("b", {"a"})
        (('a', 'out_proj.bias'), None)
    """
    for module in modules:
        short = name.removeprefix(f"{module}." if module else "")
        if (short != name or not module) and short in (*_LEAVES, *_OUTPUT_PROJECTION):
            return module, short
    return None


def attention_arrays(
    module: str, arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert the weights of torch's MultiheadAttention to the layout of Flax's.

        torch                             Flax
        in_proj_weight [3 E, in]          query, key, value: kernel [in, heads, E/heads]
        q_, k_, v_proj_weight [E, in]     the same
        in_proj_bias [3 E]                their biases [heads, E/heads]
        out_proj.weight [out, E]          out.kernel [heads, E/heads, out]

    Args:
        module: The torch name of the layer, for messages.
        arrays: Arrays by their names in the layer. A scalar, from an optimizer's state,
            is repeated for each part that its parameter is split into.
        leaves: The Flax layer's leaves by path.

    Returns:
        Arrays by Flax path, and the torch names of those that have no leaf.
    """
    if {"bias_k", "bias_v"} & set(arrays):
        raise ValueError(
            f"The attention {module!r} has `add_bias_kv=True` in torch, which Flax's"
            " attention does not have. Make it without."
        )
    found, unmatched = {}, []
    for name, array in arrays.items():
        parts = _split_by_side(name, array)
        if not set(parts) <= set(leaves):
            unmatched.append(f"{module}.{name}" if module else name)
            continue
        for path, part in parts.items():
            found[path] = _split_by_head(module, path, part, leaves[path].shape)
    return found, unmatched


def _split_by_side(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Split a torch array into query, key and value, by Flax path."""
    if name in _OUTPUT_PROJECTION:
        return {_OUTPUT_PROJECTION[name]: array}
    if name in _SEPARATE_PROJECTIONS:
        return {f"{_SIDES[_SEPARATE_PROJECTIONS.index(name)]}.kernel": array}
    leaf = "kernel" if name == "in_proj_weight" else "bias"
    thirds = np.split(array, 3) if array.ndim else [array] * 3
    return {f"{side}.{leaf}": part for side, part in zip(_SIDES, thirds, strict=True)}


def _split_by_head(
    module: str, path: str, array: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Reshape an array in torch's layout to a leaf's shape, with an axis of heads."""
    if not array.ndim:
        return array
    heads_last = path.endswith(".kernel") and path != "out.kernel"
    flat = (shape[0], math.prod(shape[1:])) if heads_last else (math.prod(shape),)
    if path == "out.kernel":
        flat = (math.prod(shape[:-1]), shape[-1])
    if array.T.shape != flat:
        raise ValueError(
            f"The leaf `{path}` of the attention {module!r} must have the sizes of"
            f" torch's array {array.shape}; it has {shape}. Check `num_heads` and the"
            " features of query, key and value."
        )
    return array.T.reshape(shape)
