"""Solvers give the dense solution, batched and transposed too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jmeta import CG, GMRES, Neumann, NormalCG
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
)

SOLVED = 1e-8
"""An iterative solver whose residual is 1e-10 of the right-hand side."""

SYMMETRIC = {
    "cg": CG(),
    "normal_cg": NormalCG(),
    "gmres": GMRES(),
    "gmres_restarted": GMRES(restart=3),
    "neumann": Neumann(terms=120, scale=0.3),
}
ANY = {name: SYMMETRIC[name] for name in ("normal_cg", "gmres", "gmres_restarted")}

TREE = {"a": np.zeros(3), "b": [np.zeros((2, 1)), np.zeros(())]}


@functools.cache
def matrices(symmetric):
    """Three matrices of 6 unknowns, eigenvalues from 1 to 4 when symmetric."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 6, 6))
    if not symmetric:
        return jnp.asarray(np.diag([2.0, -3, 2, -2, 3, 2]) + 0.3 * noise)
    q = np.linalg.qr(noise)[0]
    return jnp.asarray((q * rng.uniform(1, 4, size=(3, 1, 6))) @ q.mT)


def right_hand_sides():
    return jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)))


def solve(solver, matrix, b):
    """Solve for a tree of unknowns of several shapes."""
    _, unravel = ravel_pytree(TREE)

    def matvec(x):
        return unravel(matrix @ ravel_pytree(x)[0])

    x = solver(matvec, unravel(b))
    assert jax.tree.structure(x) == jax.tree.structure(TREE)
    return ravel_pytree(x)[0]


CASES = [(True, name) for name in SYMMETRIC] + [(False, name) for name in ANY]


@pytest.mark.parametrize(("symmetric", "name"), CASES)
def test_dense_solution_in_batches(symmetric, name):
    a, b = matrices(symmetric), right_hand_sides()
    found = jax.jit(jax.vmap(functools.partial(solve, SYMMETRIC[name])))(a, b)
    expected = np.linalg.solve(a, b[..., None])[..., 0]
    assert_trees_close(found, expected, rtol=SOLVED, atol=SOLVED)


@pytest.mark.parametrize(
    ("symmetric", "name"),
    [(True, "cg"), (True, "neumann"), (False, "normal_cg"), (False, "gmres")],
)
def test_reverse_and_forward_derivatives(symmetric, name):
    """Both are solves of their own: with the transpose, and with the matrix."""
    a, b, tangent = matrices(symmetric)[0], *right_hand_sides()[:2]
    change = matrices(symmetric)[1]  # symmetric like the matrix
    fun = functools.partial(solve, SYMMETRIC[name])
    out, out_dot = jax.jit(lambda *args: jax.jvp(fun, args[:2], args[2:]))(
        a, b, change, tangent
    )
    dense = lambda at: np.linalg.solve(at[0], at[1])
    expected = central_difference(dense, (a, b), (change, tangent))
    assert_trees_close(out, dense((a, b)), rtol=SOLVED, atol=SOLVED)
    assert_trees_close(out_dot, expected, rtol=F64_DIFFERENCE, atol=SOLVED)
    pull = jax.jit(lambda ct: jax.vjp(fun, a, b)[1](ct))
    a_bar, b_bar = pull(tangent)
    solved = np.linalg.solve(a.T, tangent)
    assert_trees_close(b_bar, solved, rtol=SOLVED, atol=SOLVED)
    along = np.vdot(np.outer(solved, out), -change)
    assert_trees_close(jnp.vdot(a_bar, change), along, rtol=SOLVED, atol=SOLVED)


@pytest.mark.parametrize(
    ("symmetric", "solver", "dense"),
    [
        (True, CG(damping=0.5), lambda a, b: np.linalg.solve(a + 0.5 * np.eye(6), b)),
        (False, GMRES(damping=0.5), lambda a, b: np.linalg.solve(a + np.eye(6) / 2, b)),
        (
            False,
            NormalCG(damping=0.5),
            lambda a, b: np.linalg.solve(a.T @ a + 0.5 * np.eye(6), a.T @ b),
        ),
    ],
    ids=["cg", "gmres", "normal_cg"],
)
def test_damping(symmetric, solver, dense):
    a, b = np.asarray(matrices(symmetric)[0]), np.asarray(right_hand_sides()[0])
    found = jax.jit(functools.partial(solve, solver))(a, b)
    assert_trees_close(found, dense(a, b), rtol=SOLVED, atol=SOLVED)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_neumann_is_the_truncated_series(terms):
    a, b = np.asarray(matrices(True)[0]), np.asarray(right_hand_sides()[0])
    step = np.eye(6) - 0.3 * a
    powers = [np.linalg.matrix_power(step, k) @ b for k in range(terms)]
    expected = 0.3 * np.sum(powers, axis=0)
    fun = functools.partial(solve, Neumann(terms=terms, scale=0.3))
    assert_trees_close(jax.jit(fun)(a, b), expected, rtol=F64_SAME, atol=1e-14)
    # linear in b with a symmetric matrix: its own transpose
    pull = jax.jit(lambda b: jax.vjp(lambda b: fun(a, b), b)[1](b)[0])
    assert_trees_close(pull(b), expected, rtol=F64_SAME, atol=1e-14)


@pytest.mark.parametrize("solver", [CG(maxiter=2), CG(tol=0.3)], ids=str)
def test_stopping_early(solver):
    """Two iterations of three digits are not the solution, and say so."""
    a, b = matrices(True)[0], right_hand_sides()[0]
    found = jax.jit(functools.partial(solve, solver))(a, b)
    residual = jnp.linalg.norm(a @ found - b) / jnp.linalg.norm(b)
    assert 1e-4 < residual < 0.5


@pytest.mark.parametrize("name", ["cg", "normal_cg", "gmres", "neumann"])
def test_zero_and_scalar_right_hand_sides(name):
    solver = SYMMETRIC[name]
    found = jax.jit(lambda b: solver(lambda x: 2.0 * x, b))
    assert_trees_close(found(jnp.zeros(())), 0.0, rtol=0.0)
    assert_trees_close(found(jnp.asarray(3.0)), 1.5, rtol=SOLVED)


@pytest.mark.parametrize("name", ["cg", "normal_cg", "gmres", "neumann"])
def test_float32(name):
    a, b = jax.tree.map(jnp.float32, (matrices(True)[0], right_hand_sides()[0]))
    found = jax.jit(lambda a, b: SYMMETRIC[name](lambda x: a @ x, b))(a, b)
    assert found.dtype == jnp.float32
    # the matrix's condition is 4, the solvers' tolerance 1e-6
    assert_trees_close(found, np.linalg.solve(a, b), rtol=1e-5, atol=1e-5)


HALF = {"bfloat16": 0.03, "float16": 4e-3}
"""Four roundings of the products with the matrix, whose condition is 4."""


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["cg", "normal_cg", "gmres", "neumann"])
def test_half_precision(name, dtype):
    a, b = matrices(True)[0].astype(dtype), right_hand_sides()[0].astype(dtype)
    fun = jax.jit(lambda a, b: SYMMETRIC[name](lambda x: a @ x, b))
    found, dense = fun(a, b), np.linalg.solve(np.float64(a), np.float64(b))
    assert found.dtype == dtype
    size = np.abs(dense).max()
    assert_trees_close(np.float64(found) / size, dense / size, 0.0, HALF[dtype])
    transposed = jax.vjp(lambda b: fun(a, b), b)[1](b)[0]
    assert transposed.dtype == dtype
    assert_trees_close(np.float64(transposed) / size, dense / size, 0.0, HALF[dtype])
