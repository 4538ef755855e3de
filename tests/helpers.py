"""Comparisons that raise, numerical derivatives, and counts of what was compiled."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_structure

F64_SAME = 1e-12
"""The same algorithm twice, in float64."""
F64_TORCH = 1e-10
"""Against numbers recorded from torch, in float64."""
F64_DIFFERENCE = 1e-6
"""Against central differences, in float64."""
F32 = 1e-5
"""Anything in float32."""


def assert_trees_close(
    actual: Any, expected: Any, rtol: float, atol: float = 0.0
) -> None:
    """Raise unless the trees have one structure and close leaves, entry by entry.

    Close means `|actual - expected| <= atol + rtol * |expected|`. Shapes must be equal,
    without broadcasting; dtypes need not be. NaN is close to nothing, itself included;
    infinity only to itself.

    Args:
        actual: A tree of numbers, arrays or typed PRNG keys.
        expected: The tree it should be.
        rtol: Share of the expected value; one of this module's constants.
        atol: Absolute share, for entries that cancel to nearly zero.
    """
    structures = tree_structure(actual), tree_structure(expected)
    assert structures[0] == structures[1], (
        f"the trees differ in structure: {structures[0]}, expected {structures[1]}"
    )
    expected_leaves = jax.tree.leaves(expected)
    failures = []
    for (path, got), want in zip(
        tree_flatten_with_path(actual)[0], expected_leaves, strict=True
    ):
        failure = _difference(_as_numpy(got), _as_numpy(want), rtol, atol)
        if failure:
            failures.append(f"leaf `{keystr(path)}`: {failure}")
    assert not failures, "\n".join(failures)


def central_difference(
    f: Callable[[Any], Any], x: Any, direction: Any, step: float = 1e-3
) -> Any:
    """Derivative of `f` at `x` along `direction`, of fourth order, in float64.

        (8 (f(x + h) - f(x - h)) - (f(x + 2 h) - f(x - 2 h))) / (12 h)

    Its error is about `h**4` of the fifth derivative plus `1e-16 / h` of `f`. The
    default `h` is near the minimum of the sum where `f` varies over a length of 1, and
    leaves about 1e-12; a quantity of another size (an `eps` of 1e-8) needs a step or a
    direction of a hundredth of its size, and a step must not cross a kink.

    Args:
        f: Maps a tree like `x` to a tree of arrays; called four times, so jit it.
        x: A tree of float64 arrays or Python floats.
        direction: A tree like `x`.
        step: The `h` above.

    Returns:
        A tree like `f(x)`, of float64 numpy arrays.
    """

    def at(distance: float) -> Any:
        moved = jax.tree.map(
            lambda leaf, d: _float64(leaf) + distance * _float64(d), x, direction
        )
        return jax.tree.map(_float64, f(moved))

    return jax.tree.map(
        lambda plus, minus, plus2, minus2: (
            (8 * (plus - minus) - (plus2 - minus2)) / (12 * step)
        ),
        *map(at, (step, -step, 2 * step, -2 * step)),
    )


def finite_difference_grad(f: Callable[[Any], Any], x: Any, step: float = 1e-3) -> Any:
    """Gradient of a scalar `f` at `x` by `central_difference`, entry after entry.

    Args:
        f: Maps a tree like `x` to a scalar; called four times an entry, so jit it.
        x: A tree of float64 arrays or Python floats.
        step: As in `central_difference`.

    Returns:
        A tree like `x`, of float64 numpy arrays.
    """
    leaves, treedef = jax.tree.flatten(x)
    zeros = [np.zeros(np.shape(leaf)) for leaf in leaves]
    grads = [np.zeros(np.shape(leaf)) for leaf in leaves]
    for i, grad in enumerate(grads):
        for index in np.ndindex(grad.shape):
            one = zeros[i].copy()
            one[index] = 1.0
            direction = treedef.unflatten([*zeros[:i], one, *zeros[i + 1 :]])
            grad[index] = central_difference(f, x, direction, step)
    return treedef.unflatten(grads)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the names of the functions that XLA compiles inside the context.

    Operations outside `jit` count too, each at its first shape: make the arguments
    before.

        with compilations() as compiled:
            step(x)
        assert not compiled
    """
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(kwargs.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def count_equations(jaxpr: Any) -> int:
    """Equations of a jaxpr (`jax.make_jaxpr(f)(x)`), those of inner jaxprs included."""
    return sum(
        1 + sum(map(count_equations, _inner_jaxprs(tuple(equation.params.values()))))
        for equation in jaxpr.eqns
    )


def _difference(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> str:
    """What is wrong with a leaf; empty when nothing is."""
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    if not got.size:
        return ""
    # infinities: inf - inf is NaN, which the equality catches
    with np.errstate(invalid="ignore"):
        same = got == want
        error = np.where(same, 0.0, np.abs(got - want))
        excess = error - np.where(same, 0.0, atol + rtol * np.abs(want))
    bad = ~(excess <= 0)
    if not bad.any():
        return ""
    worst = np.unravel_index(np.argmax(np.where(bad, excess, -np.inf)), got.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error[worst] / np.abs(want[worst])
    return (
        f"{bad.sum()} of {bad.size} entries differ; at {tuple(map(int, worst))} got"
        f" {got[worst]!r}, expected {want[worst]!r}: error {error[worst]:.3g},"
        f" relative {relative:.3g}, allowed rtol={rtol:g} atol={atol:g}"
    )


def _as_numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    # float64 so that unsigned differences do not wrap and bfloat16 has a relative error
    return array if array.dtype.kind == "c" else array.astype(np.float64)


def _float64(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype != np.float64:
        raise TypeError(
            f"A numerical derivative needs float64 throughout; got {array.dtype}."
        )
    return array


def _inner_jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner_jaxprs(value)
