"""The table of optax's transforms and their hypergradients at gradients of 0.

    python -m tests.optax_table            # print it
    python -m tests.optax_table --write    # put it into jmeta/optim/README.md

Every cell is found by training and differentiating, in some minutes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta.diagnose._differences import directional_derivative
from jmeta.optim import finite
from tests import optax_cases
from tests.helpers import F64_DIFFERENCE
from tests.optax_cases import MAKERS, MASKS, Make, arguments, meta_loss
from tests.optimizer_table import split

FILE = Path(jmeta.optim.__file__).parent / "README.md"
BEGIN, END = "<!-- optax:begin -->", "<!-- optax:end -->"


class Row(NamedTuple):
    """What was found of a transform.

    Attributes:
        name: In `MAKERS`.
        plain: Whether the hypergradient is finite by JAX and optax alone, in float32.
        default: The same in `inner_loop`.
        finite: The same with `optim.finite`.
        right: Whether it is the derivative, by central differences in float64; with
            `optim.finite` where the default is not finite.
    """

    name: str
    plain: bool
    default: bool
    finite: bool
    right: bool

    def __str__(self) -> str:
        cells = ["finite" if found else "NaN" for found in self[1:4]]
        right = "yes" if self.right else "no"
        return f"| {' | '.join([f'`{self.name}`', *cells, right])} |"


def table(names: Any = MAKERS) -> str:
    """The table as markdown, markers not included."""
    heads = "transform", "plain JAX", "`inner_loop`", "`optim.finite`", "the derivative"
    rule = ["---"] * len(heads)
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(rule)} |"]
    return "\n".join([*lines, *(str(row(name)) for name in names)])


@jax.numpy_rank_promotion("allow")
def row(name: str) -> Row:
    make = MAKERS[name]
    protected = lambda lr: finite(make(lr))
    with jax.enable_x64(False):
        plain, default, guarded = (
            _is_finite(jax.jit(jax.value_and_grad(loss, argnums=1)))
            for loss in (
                lambda mask, args: optax_cases.plain_loss(make, mask, args),
                lambda mask, args: meta_loss(make, jmeta.Unroll(), mask, args),
                lambda mask, args: meta_loss(protected, jmeta.Unroll(), mask, args),
            )
        )
    with jax.enable_x64(True):
        right = _is_derivative(make if default else protected)
    return Row(name, plain, default, guarded, right)


def _is_finite(gradient: Callable[..., Any]) -> bool:
    """Whether gradients are finite wherever the loss is."""
    args = arguments(jnp.float32)
    found = [gradient(mask, args) for mask in MASKS.values()]
    return all(
        bool(np.isfinite(leaf).all())
        for value, grads in found
        for leaf in jax.tree.leaves(grads)
        if np.isfinite(value)
    )


def _is_derivative(make: Make) -> bool:
    """Whether reverse mode agrees with differences, along rate and weights."""
    args = arguments(jnp.float64)
    direction = jax.tree.map(lambda x: jnp.cos(3 * x), args)

    @jax.jit
    def value(mask, distance):
        moved = jax.tree.map(lambda x, d: x + distance * d, args, direction)
        return meta_loss(make, jmeta.Unroll(), mask, moved)

    slope = jax.jit(jax.grad(value, argnums=1))
    for mask in MASKS.values():
        if not np.isfinite(value(mask, 0.0)):
            continue
        found = float(slope(mask, 0.0))
        expected, error = directional_derivative(
            lambda h, mask=mask: value(mask, h), 0.02, 1e-15
        )
        if not abs(found - expected) <= F64_DIFFERENCE * abs(expected) + 10 * error:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {FILE.name}")
    if not parser.parse_args().write:
        print(table())
        return
    before, _, after = split(FILE.read_text(), BEGIN, END)
    FILE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
