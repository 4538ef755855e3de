"""Run a program and compare what its two sides give."""

from typing import Any

import jax

from tests.helpers import assert_trees_close
from tests.programs.draw import draw
from tests.programs.optimizers import OPTIMIZERS
from tests.programs.write import program, whole

RTOL = 1e-8
"""Both sides in float64: their rounding, through a few badly scaled steps."""

NOTHING = 1e-3
"""What is smaller than this in all entries is compared as if it were this large."""


def results(source: str) -> tuple[Any, Any]:
    """What jmeta and the Python loop give for a program's source."""
    names: dict[str, Any] = {"jax": jax}
    # the programs are made by this package, of its own words
    exec(compile(source, "program", "exec"), names)
    return names["result"], names["expected"]


def check(seed: int) -> None:
    """Raise unless both agree, with the program as a script that can be pasted."""
    choices = draw(seed)
    # what optax, and a user's function of an integer step, do is not jmeta's
    mixes = "optax." in OPTIMIZERS[choices.optimizer].source
    mixes |= choices.rate == "callable"
    promotion = "standard" if mixes else "strict"
    try:
        with jax.numpy_dtype_promotion(promotion):
            result, expected = results(program(seed))
        assert_agree(result, expected)
    except Exception as error:
        raise AssertionError(f"{error}\n\n{whole(seed)}") from error


def assert_agree(result: Any, expected: Any) -> None:
    """Raise unless two trees agree: to `RTOL`, of an entry or a thousandth of all."""
    leaves = jax.tree.leaves(expected)
    largest = max(NOTHING, *(float(abs(x).max()) for x in leaves))
    assert_trees_close(result, expected, RTOL, RTOL * 1e-3 * largest)
