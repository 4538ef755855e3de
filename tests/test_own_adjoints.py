"""A user's own adjoint, condition and solver serve as well as jmeta's."""

import jax
import jax.numpy as jnp

import jmeta
from jmeta.adjoint import Implicit, Loop, Outcome, StationaryPoint, Unroll
from tests.helpers import F64_SAME, assert_trees_close

MATRIX = jnp.array([[3.0, 1.0], [1.0, 2.0]])


class Gradient:
    """The inner gradient, twice."""

    def residual(self, loop, carry, x, params):
        twice = StationaryPoint().residual(loop, carry, x, params)
        return jax.tree.map(lambda grad: 2 * grad, twice)


def dense(matvec, b):
    return jnp.linalg.solve(jax.jacobian(matvec)(b), b)


def solution(target, adjoint):
    def objective(w):
        return 0.5 * w @ MATRIX @ w - target @ w

    tx = jmeta.optim.sgd(lr=0.4)
    return jmeta.inner_loop(objective, jnp.zeros(2), tx, 200, adjoint=adjoint).params


def test_condition_and_solver():
    adjoint = Implicit(solver=dense, condition=Gradient())
    jacobian = jax.jacrev(solution)(jnp.array([1.0, -2.0]), adjoint)
    assert_trees_close(jacobian, jnp.linalg.inv(MATRIX), rtol=F64_SAME)


def test_adjoint():
    def twice(loop: Loop) -> Outcome:
        outcome = Unroll()(loop)
        params = jax.tree.map(lambda x: 2 * x, outcome.carry.params)
        return outcome._replace(carry=outcome.carry._replace(params=params))

    target = jnp.array([1.0, -2.0])
    once = solution(target, Unroll())
    assert_trees_close(solution(target, twice), 2 * once, rtol=F64_SAME)
