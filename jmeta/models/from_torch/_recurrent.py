"""Convert torch's recurrent weights to the layout of Flax's cells."""

import re
from collections.abc import Collection, Mapping

import numpy as np

_GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n"), 1: ("",)}
"""The gates of an LSTM, a GRU and a plain cell in torch's order, by their number."""

_LEAF = re.compile(r"^(.*?)\.?(weight|bias)_(ih|hh)(?:_(l\d+(?:_reverse)?))?$")


def is_recurrent(name: str) -> bool:
    """Whether a torch name is a weight or bias of a recurrent layer or cell."""
    return _LEAF.match(name) is not None


def recurrent_module(name: str) -> tuple[str, str]:
    """The layer that a recurrent weight belongs to, and the weight's short name.

    Example:
        >>> recurrent_module("rnn.weight_ih_l0"), recurrent_module("cell.bias_hh")
        (('rnn.l0', 'weight_ih'), ('cell', 'bias_hh'))
    """
    found = _LEAF.match(name)
    assert found is not None
    module, kind, side, layer = found.groups()
    return ".".join(filter(None, (module, layer))), f"{kind}_{side}"


def cell_arrays(
    module: str, cell: Mapping[str, np.ndarray], leaves: Collection[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert a torch cell's weights to the layout of a Flax cell.

    torch adds two biases for each gate. Most gates of a Flax cell have one bias, which
    gets the sum. The recurrent bias of a GRU's `n` is multiplied by the reset gate and
    needs a bias of its own.

    Args:
        module: The torch name of the layer, for messages.
        cell: `weight_ih` [gates * hidden, in], `weight_hh` [gates * hidden, hidden]
            and, unless torch made it without, `bias_ih` and `bias_hh`.
        leaves: Paths of the Flax cell's leaves.

    Returns:
        Arrays by Flax path, and names without a leaf: the layer's name if the leaves
        are not those of such a cell, or none.
    """
    if not {"weight_ih", "weight_hh"} <= set(cell):
        return {}, [module]
    hidden = cell["weight_hh"].shape[1]
    gates = _GATES.get(cell["weight_hh"].shape[0] // hidden, ("unknown",))
    zeros = np.zeros_like(cell["weight_hh"][:, 0])
    sides = {
        "i": (cell["weight_ih"], cell.get("bias_ih", zeros)),
        "h": (cell["weight_hh"], cell.get("bias_hh", zeros)),
    }
    stacked = "dense_i.kernel" in leaves
    prefixes = {
        gate: {side: _prefix(side, gate, leaves, stacked) for side in sides}
        for gate in gates
    }
    kernels = {f"{p}.kernel" for two in prefixes.values() for p in two.values()}
    if not kernels <= set(leaves):
        return {}, [module]
    result: dict[str, list[np.ndarray]] = {}
    for k, (gate, prefix) in enumerate(prefixes.items()):
        rows = slice(k * hidden, (k + 1) * hidden)
        has = {side: f"{prefix[side]}.bias" in leaves for side in sides}
        biases = {side: bias[rows] for side, (_, bias) in sides.items()}
        biases = _biases(module, biases, has, separate=gate == "n")
        for side, (weight, _) in sides.items():
            result.setdefault(f"{prefix[side]}.kernel", []).append(weight[rows].T)
            if has[side]:
                result.setdefault(f"{prefix[side]}.bias", []).append(biases[side])
    return {path: np.concatenate(parts, -1) for path, parts in result.items()}, []


def _prefix(side: str, gate: str, leaves: Collection[str], stacked: bool) -> str:
    if stacked:
        return f"dense_{side}"
    name = f"{side}{gate}"
    # nnx writes `if_`, since `if` is a Python keyword
    return f"{name}_" if f"{name}_.kernel" in leaves else name


def _biases(
    module: str, biases: dict[str, np.ndarray], has: dict[str, bool], *, separate: bool
) -> dict[str, np.ndarray]:
    missing = [side for side in biases if not has[side]]
    if not missing:
        return biases
    nowhere = missing if separate or len(missing) == 2 else []
    if any(np.any(biases[side] != 0) for side in nowhere):
        raise ValueError(
            f"The cell for {module!r} has no leaf for a bias that is not 0 in torch"
            + (
                ", that of the recurrent part of `n`. Give an nnx.GRUCell one, "
                "`cell.dense_h = nnx.Linear(hidden, 3 * hidden, rngs=rngs)`, or use "
                "linen's."
                if separate
                else ". Make it with biases."
            )
        )
    total = biases["i"] + biases["h"]
    return {"i": total, "h": total}
