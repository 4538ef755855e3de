"""Writes recorded numbers: a JSON tree beside one vector of all array entries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def write(section: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the cases of a section, each a dict with a unique `name`.

    Tensors, arrays and NaN-free numbers may be nested in dicts and lists; floats keep
    every digit.
    """
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names), f"names of `{section}` must be unique"
    entries: list[np.ndarray] = []
    offset = 0

    def encode(node: Any) -> Any:
        nonlocal offset
        if isinstance(node, torch.Tensor):
            node = node.detach().numpy()
        if isinstance(node, np.ndarray) and node.ndim == 0:
            node = node.item()
        if isinstance(node, np.ndarray):
            dtype = node.dtype.name
            assert dtype in ("float64", "int64", "bool"), f"unexpected {dtype}"
            place = [dtype, offset, list(node.shape)]
            entries.append(node.astype("float64").ravel())
            offset += node.size
            return {"array": place}
        if isinstance(node, dict):
            return {str(key): encode(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [encode(value) for value in node]
        return node

    tree = {
        "torch": torch.__version__.split("+")[0],
        "cases": [encode(r) for r in rows],
    }
    values = np.concatenate([*entries, np.zeros(0)])
    np.savez_compressed(folder / f"{section}.npz", values=values)
    lines = ",\n".join(json.dumps(row) for row in tree["cases"])
    head = json.dumps(tree["torch"])
    (folder / f"{section}.json").write_text(
        f'{{"torch": {head}, "cases": [\n{lines}\n]}}\n'
    )
