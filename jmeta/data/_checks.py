"""Refuse tasks that cannot be drawn, and say what to pass."""

from typing import Any

import numpy as np


def at_least_one(**counts: Any) -> None:
    """Each of the named counts is a Python integer from 1."""
    for name, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or count < 1:
            raise ValueError(f"`{name}` must be an integer from 1; got {count!r}.")


def enough(names: Any, counts: np.ndarray, ways: int, shots: int, queries: int) -> None:
    """There are `ways` classes, and each has `shots + queries` images."""
    if len(counts) < ways:
        raise ValueError(
            f"There must be at least `ways`={ways} classes; got {len(counts)}. Pass"
            " more classes or fewer `ways`."
        )
    if counts.min() < shots + queries:
        fewest = counts.argmin()
        raise ValueError(
            f"Every class must have at least `shots + queries`={shots + queries}"
            f" images, since none comes twice in a task; class {names[fewest]!s} has"
            f" {counts[fewest]}. Leave it out, or lower `shots` or `queries`."
        )
