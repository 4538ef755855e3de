"""Implicit derivatives are those of the solution; what has none is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import GMRES, Implicit, Neumann, NormalCG, proximal
from jmeta.adjoint import FixedPoint, Root, StationaryPoint
from tests.cases import PLAIN
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
)

EXACT = 1e-8
"""A converged loop, and a solver whose residual is 1e-10."""

STEPS = 400


@functools.cache
def data():
    """Training and validation rows, with labels."""
    rng = np.random.default_rng(0)
    x, x_val = (jnp.asarray(rng.normal(size=(12, 3))) for _ in range(2))
    w = jnp.array([1.0, -2.0, 0.5])
    noise = jnp.asarray(rng.normal(size=(2, 12)))
    return x, x @ w + noise[0], x_val, x_val @ w + noise[1]


def ridge(w, decay, x, y):
    """`decay` is one number or one for each feature."""
    return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * jnp.sum(jnp.exp(decay) * w**2)


def logistic(w, decay, x, y):
    fit = jnp.mean(jnp.logaddexp(0.0, -jnp.sign(y) * (x @ w)))
    return fit + 0.5 * jnp.sum(jnp.exp(decay) * w**2)


LR = {"ridge": 0.4, "logistic": 2.0}
LOSSES = {"ridge": ridge, "logistic": logistic}


def train(adjoint, loss, decay, steps=STEPS, **kwargs):
    x, y, _, _ = data()
    tx = jmeta.optim.sgd(LR[loss], momentum=0.5)
    objective = lambda w: LOSSES[loss](w, decay, x, y)
    start = jnp.zeros(3)
    return jmeta.inner_loop(objective, start, tx, steps, adjoint=adjoint, **kwargs)


def meta_loss(adjoint, loss, decay):
    _, _, x, y = data()
    return LOSSES[loss](train(adjoint, loss, decay).params, -jnp.inf, x, y)


@functools.cache
def solved(loss, per_feature):
    """Value, gradient, second derivative by Newton's method and a dense solve."""
    x, y, x_val, y_val = data()
    decay = decays(per_feature)
    fun = LOSSES[loss]

    @jax.jit
    def hypergrad(decay):
        def newton(_, w):
            hessian = jax.hessian(fun)(w, decay, x, y)
            return w - jnp.linalg.solve(hessian, jax.grad(fun)(w, decay, x, y))

        w = jax.lax.fori_loop(0, 8, newton, jnp.zeros(3))
        # -d2F/dw ddecay applied to the adjoint of the validation gradient
        outer = jax.grad(fun)(w, -jnp.inf, x_val, y_val)
        hessian = jax.hessian(fun)(w, decay, x, y)
        cross = jax.jacrev(jax.grad(fun), argnums=1)(w, decay, x, y)
        return -jnp.linalg.solve(hessian, outer) @ cross

    direction = jnp.ones_like(decay)
    return hypergrad(decay), central_difference(hypergrad, decay, direction)


def decays(per_feature):
    return jnp.array([-1.0, -2.0, -0.5]) if per_feature else jnp.asarray(-1.5)


ADJOINTS = {
    "cg": Implicit(),
    "normal_cg": Implicit(solver=NormalCG()),
    "gmres": Implicit(solver=GMRES()),
    "neumann": Implicit(solver=Neumann(terms=400, scale=0.4)),
    "fixed_point": Implicit(condition=FixedPoint()),
    "fixed_point_neumann": Implicit(
        condition=FixedPoint(), solver=Neumann(terms=400, scale=1.0)
    ),
    "tol": Implicit(tol=1e-11),
}


@pytest.mark.parametrize("name", ADJOINTS)
@pytest.mark.parametrize("per_feature", [False, True], ids=["scalar", "per_feature"])
def test_ridge(name, per_feature):
    grad = jax.jit(jax.grad(functools.partial(meta_loss, ADJOINTS[name], "ridge")))
    expected, _ = solved("ridge", per_feature)
    assert jnp.all(jnp.abs(expected) > 1e-3)
    found = grad(decays(per_feature))
    assert_trees_close(found, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("per_feature", [False, True], ids=["scalar", "per_feature"])
def test_logistic_regression(per_feature):
    decay = decays(per_feature)
    fun = functools.partial(meta_loss, Implicit(), "logistic")
    expected, curved = solved("logistic", per_feature)
    assert_trees_close(jax.jit(jax.grad(fun))(decay), expected, rtol=EXACT, atol=EXACT)
    ones = jnp.ones_like(decay)
    slope = jax.jit(lambda d: jax.jvp(fun, (d,), (ones,))[1])(decay)
    assert_trees_close(slope, jnp.sum(expected), rtol=EXACT)
    if per_feature:
        second = jax.jit(lambda d: jax.hessian(fun)(d) @ ones)(decay)
        assert_trees_close(second, curved, rtol=F64_DIFFERENCE, atol=EXACT)


def test_batches_of_loops_and_counts():
    """vmap of grad, grad of vmap, and one count of steps for each task."""
    decay = jnp.array([-2.0, -1.0, 0.5])
    fun = functools.partial(meta_loss, Implicit(tol=1e-11), "ridge")
    one = jax.jit(jax.grad(fun))
    expected = jnp.stack([one(d) for d in decay])
    found = jax.jit(jax.vmap(jax.grad(fun)))(decay)
    assert_trees_close(found, expected, rtol=EXACT)
    summed = jax.jit(jax.grad(lambda d: jnp.sum(jax.vmap(fun)(d))))
    assert_trees_close(summed(decay), expected, rtol=EXACT)

    tol = 1e-4
    run = jax.jit(jax.vmap(lambda d: train(Implicit(tol=tol), "ridge", d)))(decay)
    full = jax.jit(jax.vmap(lambda d: train(PLAIN, "ridge", d, history=True)))(decay)
    assert len(set(run.steps_taken.tolist())) > 1
    x, y, _, _ = data()
    for i, taken in enumerate(run.steps_taken.tolist()):
        norms = [
            jnp.linalg.norm(jax.grad(ridge)(full.history[i, t], decay[i], x, y))
            for t in (taken - 1, taken)
        ]
        assert norms[1] <= tol < norms[0]
        assert_trees_close(run.residual[i], norms[1], rtol=1e-9)
        assert_trees_close(run.params[i], full.history[i, taken], rtol=F64_SAME)
        assert_trees_close(run.losses[i, :taken], full.losses[i, :taken], rtol=F64_SAME)
        assert jnp.isnan(run.losses[i, taken:]).all()
        mean = full.losses[i, :taken].mean()
        assert_trees_close(run.mean_loss[i], mean, rtol=F64_SAME)


@pytest.mark.parametrize("steps", [3, 50])
def test_tolerance_is_a_maximum_of_steps(steps):
    run = jax.jit(lambda: train(Implicit(tol=1e-30), "ridge", -1.0, steps=steps))()
    assert run.steps_taken == steps
    assert run.residual > 0
    assert train(Implicit(), "ridge", -1.0, steps=1).steps_taken is None
    done = jax.jit(lambda: train(Implicit(tol=1e3), "ridge", -1.0, steps=steps))()
    assert done.steps_taken == 0
    assert jnp.all(done.params == 0)


def test_scalars_integers_keys_and_aux():
    """A scalar parameter; the loss captures labels, gives aux; numbers by hand."""

    def solution(target, weight, adjoint):
        labels = jnp.array([1, 0, 1])

        def objective(w):
            losses = weight[labels] * (w - target) ** 2
            return jnp.sum(losses), {"labels": labels, "losses": losses}

        tx = jmeta.optim.sgd(0.1)
        return (
            jmeta.inner_loop(
                objective, 0.0, tx, 100, has_aux=True, adjoint=adjoint
            ).params
            ** 2
        )

    weight = jnp.array([0.5, 1.0])
    for adjoint in (Implicit(), Implicit(solver=GMRES()), Implicit(tol=1e-12)):
        grad = jax.jit(jax.grad(solution, argnums=(0, 1)), static_argnums=2)
        found = grad(3.0, weight, adjoint)
        assert_trees_close(found, (6.0, jnp.zeros(2)), rtol=EXACT, atol=EXACT)


def test_a_root_of_the_users():
    """Gradient descent that is stopped half-way solves another equation."""

    def solution(theta):
        fn = lambda w: {"w": w["w"] ** 3 - theta}
        objective = lambda w: 0.25 * w["w"] ** 4 - jax.lax.stop_gradient(theta) * w["w"]
        tx = jmeta.optim.sgd(0.05)
        adjoint = Implicit(condition=Root(fn))
        return jmeta.inner_loop(objective, {"w": 1.0}, tx, 200, adjoint=adjoint).params

    # w = theta^(1/3)
    found = jax.jit(jax.jacobian(solution))(3.0)
    assert_trees_close(found, {"w": 3 ** (-2 / 3) / 3}, rtol=EXACT)


def test_weight_decay_of_the_transform_needs_a_fixed_point():
    """It is in the step and not in the loss: (1 + decay) w = target."""

    def solution(decay, active, condition):
        tx = jmeta.optim.sgd(0.2, momentum=0.5)
        objective = lambda w: 0.5 * (w - 3.0) ** 2
        adjoint = Implicit(condition=condition, solver=GMRES())
        return jmeta.inner_loop(
            objective, 0.0, tx, 150, hyperparams={"weight_decay": decay},
            adjoint=adjoint, active=active,
        )  # fmt: skip

    def fixed(decay, active):
        return solution(decay, active, FixedPoint()).params

    for active in (None, 140):
        found = jax.jit(jax.grad(fixed), static_argnums=1)(0.5, active)
        assert_trees_close(found, -3 / 1.5**2, rtol=EXACT)
    assert_trees_close(
        solution(0.5, None, FixedPoint()).residual, 0.0, rtol=0.0, atol=1e-12
    )
    # the residual tells that the loop did not end at a stationary point
    run = solution(0.5, None, StationaryPoint())
    assert_trees_close(run.residual, 1.0, rtol=EXACT)


def test_imaml_is_the_unrolled_limit():
    """The proximal term ties the solution to `meta`, wherever the loop starts."""
    x, y, x_val, y_val = data()

    def imaml(meta, weight, adjoint):
        def objective(w):
            fit = jnp.mean(jnp.log(jnp.cosh(x @ w["w"] + w["b"] - y)))
            return fit + proximal(w, meta, weight)

        tx = jmeta.optim.sgd(0.3, momentum=0.5)
        start = jax.lax.stop_gradient(meta)
        w = jmeta.inner_loop(objective, start, tx, 200, adjoint=adjoint).params
        return jnp.mean((x_val @ w["w"] + w["b"] - y_val) ** 2)

    meta = {"w": jnp.array([0.3, -0.2, 0.5]), "b": jnp.asarray(0.1)}
    grad = jax.jit(jax.value_and_grad(imaml, argnums=(0, 1)), static_argnums=2)
    found, expected = (grad(meta, 0.7, a) for a in (Implicit(), PLAIN))
    assert_trees_close(found, expected, rtol=EXACT, atol=1e-10)


def setting(name):
    """A scalar function that is differentiated by something Implicit cannot give."""

    def fun(value):
        args: dict[str, Any] = {"lr": 0.3, "momentum": 0.4, "weight_decay": 0.0}
        kwargs: dict[str, Any] = {}
        objective = lambda w: jnp.sum((w - 1.0) ** 2)
        start = jnp.zeros(2)
        match name:
            case "params":
                start = value * jnp.ones(2)
            case "lr":
                kwargs["hyperparams"] = {"lr": value}
            case "lr_per_step":
                kwargs["hyperparams"] = {"lr": value * jnp.ones(5)}
            case "lr_constructor":
                args["lr"] = value
            case "weight_decay":
                kwargs["hyperparams"] = {"weight_decay": value}
            case "weight_decay_constructor":
                args["weight_decay"] = value
            case "opt_state":
                state: Any = jmeta.optim.sgd(**args).init(start)
                buffer = {"momentum_buffer": value * jnp.ones(2)}
                kwargs["opt_state"] = state._replace(**buffer)
            case "perturbations":
                kwargs["perturbations"] = value * jnp.ones((6, 2))
            case "grad_callback":
                kwargs["grad_callback"] = lambda g: value * g
            case "schedule":
                kwargs["hyperparams"] = {"lr": lambda t: value * (1 / (t + 1))}
        tx = jmeta.optim.sgd(**args)
        run = jmeta.inner_loop(objective, start, tx, 5, adjoint=Implicit(), **kwargs)
        return jnp.sum(run.params)

    return fun


REFUSED = {
    "params": r"the initial parameters .*stop_gradient.*proximal",
    "lr": r"a setting or a value that the optimality condition does not contain",
    "lr_per_step": r"setting per step",
    "lr_constructor": r"setting given to its constructor",
    "weight_decay": r"a setting .* Put it in the loss \(a weight decay too",
    "weight_decay_constructor": r"its constructor .* Put it in the loss \(a weight",
    "opt_state": r"the optimizer's state",
    "perturbations": r"`perturbations`",
    "grad_callback": r"a setting or a value that the optimality condition does not",
    "schedule": r"a setting or a value that the optimality condition does not",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_move_the_solution_is_refused(name):
    message = rf"With `Implicit`.*{REFUSED[name]}.*Unroll\(\)"
    for derivative in (jax.grad, jax.jacfwd):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(derivative(setting(name)), 0.1)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jax.vmap(jax.grad(jax.jit(setting(name)))), jnp.ones(2))
    # without a derivative it runs
    assert jax.eval_shape(setting(name), 0.1).shape == ()


@pytest.mark.parametrize("tol", [None, 1e-6])
def test_history_and_batches_are_refused(tol):
    loop = functools.partial(
        jmeta.inner_loop, params=0.0, tx=jmeta.optim.sgd(0.1), steps=3,
        adjoint=Implicit(tol=tol),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"`history=True` needs.*Unroll\(\)"):
        loop(lambda w: w**2, history=True)
    with pytest.raises(ValueError, match=r"same data at every step.*`batch`"):
        loop(lambda w, x: (w - x) ** 2, batches=jnp.ones(3))


def test_only_the_parameters_carry_a_derivative():
    def losses(target):
        objective = lambda w: (w - target) ** 2
        tx = jmeta.optim.sgd(0.1)
        run = jmeta.inner_loop(objective, 0.0, tx, 5, adjoint=Implicit())
        assert run.residual is not None
        return jnp.sum(run.losses) + run.residual + 2 * run.params

    assert_trees_close(jax.jit(jax.grad(losses))(3.0), 2.0, rtol=EXACT)
