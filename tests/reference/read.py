"""Reader of the recorded numbers; needs json and numpy only.

    from tests.reference.read import case, cases

    for row in cases("hypergradients"):
        row["name"], row["optimizer"], row["settings"], row["d_settings"]

A case is a nested dict of numbers, strings, lists and read-only numpy arrays; pairs of
settings (betas, etas, Adafactor's eps, ...) are tuples, as torch and jmeta take them.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent


def cases(section: str) -> list[dict[str, Any]]:
    """Every case of a section, in the order in which they were recorded."""
    return list(_read(section, FOLDER).values())


def case(section: str, name: str) -> dict[str, Any]:
    """One case of a section by its name."""
    found = _read(section, FOLDER)
    if name not in found:
        raise KeyError(
            f"`{section}` has no case {name!r}; it has {', '.join(found)}. Pick one."
        )
    return found[name]


def read(section: str, folder: Path) -> dict[str, dict[str, Any]]:
    """A section in another folder, as `{name: case}`."""
    return _read(section, folder)


def sections() -> list[str]:
    """Names of all sections."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


@functools.cache
def _read(section: str, folder: Path) -> dict[str, dict[str, Any]]:
    tree = json.loads((folder / f"{section}.json").read_text())
    with np.load(folder / f"{section}.npz") as stored:
        values = stored["values"]

    # An array is written as {"array": [dtype, offset, shape]}.
    def decode(node: Any) -> Any:
        if isinstance(node, dict) and set(node) == {"array"}:
            dtype, offset, shape = node["array"]
            size = int(np.prod(shape, dtype=int))
            array = values[offset : offset + size].reshape(shape).astype(dtype)
            array.setflags(write=False)
            return array
        if isinstance(node, dict):
            decoded = {key: decode(value) for key, value in node.items()}
            pairs = {k: tuple(v) for k, v in decoded.items() if _is_pair(k, v)}
            return decoded | pairs
        if isinstance(node, list):
            return [decode(value) for value in node]
        return node

    return {row["name"]: row for row in map(decode, tree["cases"])}


def _is_pair(key: str, value: Any) -> bool:
    pairs = ("betas", "eps", "etas", "ns_coefficients", "step_sizes")
    return key in pairs and isinstance(value, list)
