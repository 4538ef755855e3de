"""Records the reference numbers with torch and higher; see README.md.

python -m tests.reference.record             all sections
python -m tests.reference.record toy maml    only these
python -m tests.reference.record --check     record again and compare, write nothing
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import (
    autograd,
    averages,
    by_shape,
    corner_cases,
    hypergradients,
    layers,
    lbfgs,
    maml,
    models,
    modules,
    plateau,
    problems,
    schedule_hypergradients,
    schedules,
    sparse_adam,
    toy,
    trajectories,
)
from .read import FOLDER, read
from .write import write

SECTIONS = {
    "problems": problems.record,
    "trajectories": trajectories.record,
    "hypergradients": hypergradients.record,
    "corner_cases": corner_cases.record,
    "lbfgs": lbfgs.record,
    "sparse_adam": sparse_adam.record,
    "by_shape": by_shape.record,
    "toy": toy.record,
    "maml": maml.record,
    "schedules": schedules.record,
    "schedule_hypergradients": schedule_hypergradients.record,
    "plateau": plateau.record,
    "averages": averages.record,
    "modules": modules.record,
    "models": models.record,
    "layers": layers.record,
    "autograd": autograd.record,
}
"""Every section and the function that records its cases."""

SAME = 1e-9
"""Relative distance within which numbers recorded again count as the same."""


def main() -> None:
    """Record, or with `--check` compare with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", help="all of them when none is named")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {sorted(unknown)}; there are {sorted(SECTIONS)}")
    apart = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if arguments.check else FOLDER
        for section in arguments.sections or SECTIONS:
            began = time.time()
            write(section, SECTIONS[section](), folder)
            if arguments.check:
                apart += differences(section, read(section, folder))
            print(f"{section}: {time.time() - began:.0f} s", flush=True)
    if apart:
        sys.exit("\n".join(["These differ from the committed numbers:", *apart]))


def differences(section: str, again: dict[str, Any]) -> list[str]:
    """Places of a section where the committed numbers are not those recorded again."""
    return _differences(section, read(section, FOLDER), again)


def _differences(place: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        if set(old) != set(new):
            return [f"{place}: keys {sorted(set(old) ^ set(new))}"]
        pairs = [(f"{place}/{key}", old[key], new[key]) for key in old]
        return [line for pair in pairs for line in _differences(*pair)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [
            (f"{place}[{i}]", *pair)
            for i, pair in enumerate(zip(old, new, strict=True))
        ]
        return [line for pair in pairs for line in _differences(*pair)]
    if isinstance(old, float | np.ndarray) and np.shape(old) == np.shape(new):
        largest = np.max(np.abs(old), initial=0.0, where=np.isfinite(old))
        if np.allclose(new, old, rtol=SAME, atol=SAME * largest, equal_nan=True):
            return []
        return [f"{place}: {old!r} became {new!r}"]
    return [] if old == new else [f"{place}: {old!r} became {new!r}"]


if __name__ == "__main__":
    main()
