"""Checks of the arguments that samplers share."""

from typing import Any

import jax.core
import numpy as np

from jmeta._core import validate


def counts(**values: Any) -> None:
    """Check that each of the named counts is a Python integer of at least 1."""
    for name, value in values.items():
        validate.count(name, value, minimum=1)


def interval(name: str, value: Any) -> None:
    """Check that a value is a pair of numbers, the lowest first."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"`{name}` must be a pair, the lowest and the highest; got"
            f" {validate.kind(value)}. Pass `{name}=(low, high)`."
        )
    for bound in value:
        validate.number(name, bound, use=f"Pass `{name}=(low, high)`.")
    if all(not isinstance(bound, jax.core.Tracer) for bound in value):
        low, high = value
        if low > high:
            raise ValueError(
                f"`{name}` must have its lowest first; got ({low}, {high}). Swap them."
            )


def distortion(value: Any) -> None:
    """Check that a value is a number of at least 0, known before tracing."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            "`distortion` must be a Python number, known before tracing; got a traced"
            " value. Make a sampler for each."
        )
    validate.number("distortion", value, low=0.0)


def enough_images(
    names: Any, counts: np.ndarray, ways: int, shots: int, queries: int
) -> None:
    """Check that there are `ways` classes, each with `shots + queries` images."""
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
