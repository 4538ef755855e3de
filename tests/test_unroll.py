"""Every way to unroll gives the same hypergradients, and stores what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Unroll
from jmeta._jaxpr.primitives import inner_jaxprs
from tests.cases import (
    PLAIN,
    STEPS,
    UNROLLS,
    mlp,
    mlp_params,
    problems,
    quadratic_closed_form,
)
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    count_equations,
)

# entries that cancel are only as small as rounding lets them be
ROUNDING = 1e-13


@functools.cache
def plain(name, steps=STEPS):
    """The problem, and its loss and hypergradients by JAX alone."""
    problem = problems()[name]
    meta_loss = functools.partial(problem.meta_loss, PLAIN, steps)
    grads = jax.jit(jax.value_and_grad(meta_loss))(problem.args)
    return jax.jit(meta_loss), problem.args, grads


@pytest.mark.parametrize("name", ["quadratic", "network"])
def test_plain_is_the_derivative(name):
    meta_loss, args, (_, grads) = plain(name)
    rng = np.random.default_rng(2)
    for argument in args:
        direction = jax.tree.map(np.zeros_like, args)
        direction[argument] = jax.tree.map(
            lambda leaf: rng.normal(size=leaf.shape), args[argument]
        )
        slope = sum(
            jnp.vdot(g, d)
            for g, d in zip(
                jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True
            )
        )
        assert abs(slope) > 1e-3
        difference = central_difference(meta_loss, args, direction)
        assert_trees_close(slope, difference, rtol=F64_DIFFERENCE)


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_plain_is_the_closed_form(steps):
    _, args, found = plain("quadratic", steps)
    expected = jax.value_and_grad(quadratic_closed_form, argnums=1)(steps, args)
    assert_trees_close(found, expected, rtol=1e-11, atol=ROUNDING)  # matrix powers


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [("quadratic", adjoint) for adjoint in UNROLLS]
    # copies of a step take long to compile
    + [("network", adjoint) for adjoint in UNROLLS if adjoint.unroll == 1],
    ids=str,
)
def test_exact_settings_agree(name, adjoint):
    _, args, expected = plain(name)
    meta_loss = functools.partial(problems()[name].meta_loss, adjoint, STEPS)
    found = jax.jit(jax.value_and_grad(meta_loss))(args)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 12, 17])
def test_nested_at_any_number_of_steps(steps):
    _, args, expected = plain("quadratic", steps)
    adjoint = Unroll(checkpoint="nested")
    meta_loss = functools.partial(problems()["quadratic"].meta_loss, adjoint, steps)
    found = jax.jit(jax.value_and_grad(meta_loss))(args)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)


def test_nested_with_an_odd_head():
    """A first step by itself, then two blocks: each with its slice and its place."""
    _, args, expected = plain("network", 5)
    adjoint = Unroll(checkpoint="nested")
    meta_loss = functools.partial(problems()["network"].meta_loss, adjoint, 5)
    found = jax.jit(jax.value_and_grad(meta_loss))(args)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)


def test_steps_at_once_in_nested_scans():
    objective = lambda w: jnp.sum(w**2)

    def scans(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "scan":
                yield eqn.params["length"], eqn.params["unroll"]
            for inner in inner_jaxprs(eqn.params):
                yield from scans(inner)

    adjoint = Unroll(checkpoint="nested", unroll=2)
    loop = lambda w: jmeta.inner_loop(
        objective, w, jmeta.optim.sgd(), 13, adjoint=adjoint
    )
    jaxpr = jax.make_jaxpr(lambda w: loop(w).params)(jnp.ones(2)).jaxpr
    # no head of a single step; 4 blocks of 3
    assert list(scans(jaxpr)) == [(4, 1), (3, 2)]


@pytest.mark.parametrize("adjoint", [PLAIN, Unroll(), Unroll(checkpoint="nested")])
def test_eager_is_jitted(adjoint):
    _, args, expected = plain("quadratic")
    meta_loss = functools.partial(problems()["quadratic"].meta_loss, adjoint, STEPS)
    found = jax.value_and_grad(meta_loss)(args)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.parametrize(
    "adjoint",
    [*UNROLLS, Unroll(last=8), Unroll(last=8, checkpoint="nested"), Unroll(order=1)],
    ids=str,
)
def test_the_program_does_not_grow_with_steps(adjoint):
    args = problems()["quadratic"].args
    meta_loss = problems()["quadratic"].meta_loss

    def equations(steps):
        @jax.grad
        def hypergrad(settings):
            return meta_loss(adjoint, steps, args | settings)

        settings = {"lr": args["lr"], "params": args["params"]}
        return count_equations(jax.make_jaxpr(hypergrad)(settings))

    assert equations(16) == equations(4096)


def test_memory():
    params = mlp_params(hidden=16)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(64, 3))), jnp.asarray(rng.normal(size=(64, 2)))

    def temporaries(adjoint):
        def meta_loss(lr):
            run = jmeta.inner_loop(
                mlp,
                params,
                jmeta.optim.sgd(),
                64,
                loss_fn=lambda a, b: jnp.mean((a - b) ** 2),
                batch=(x, y),
                hyperparams={"lr": lr, "momentum": lr},
                adjoint=adjoint,
            )
            return jnp.mean((mlp(run.params, x) - y) ** 2)

        compiled = jax.jit(jax.grad(meta_loss)).lower(0.1).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    everything = temporaries(PLAIN)
    step = temporaries(Unroll())
    nested = temporaries(Unroll(checkpoint="nested"))
    assert 4 * nested < 2 * step < everything
    # parameters, momentum buffer and inner gradient of every step, and little else
    kept = 64 * 3 * sum(p.nbytes for p in params.values())
    assert 0.9 * kept < step < 1.6 * kept


@jax.custom_vjp
def swish(x):
    return x * jax.nn.sigmoid(x)


def _swish_forward(x):
    gate = jax.nn.sigmoid(x)
    return x * gate, (x, gate)


def _swish_backward(kept, cotangent):
    x, gate = kept
    return (cotangent * (gate + x * gate * (1 - gate)),)


swish.defvjp(_swish_forward, _swish_backward)


@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu, swish, jax.nn.softmax, jax.checkpoint(jnp.tanh), jax.jit(jnp.sin)],
    ids=["custom_jvp", "custom_vjp", "softmax", "remat", "jit"],
)
def test_functions_with_rules_of_their_own(activation):
    w = jnp.asarray(np.random.default_rng(4).normal(size=5))

    def meta_loss(adjoint, w, c):
        def objective(w):
            return jnp.sum((activation(w * c) - 0.3) ** 2) + 0.1 * jnp.sum(w**4)

        run = jmeta.inner_loop(
            objective, w, jmeta.optim.sgd(0.1, 0.5), 4, adjoint=adjoint
        )
        return jnp.sum(jnp.sin(run.params))

    grad = jax.jit(jax.grad(meta_loss, argnums=(1, 2)), static_argnums=0)
    expected = grad(PLAIN, w, 1.3)
    assert_trees_close(grad(Unroll(), w, 1.3), expected, F64_SAME, ROUNDING)
    slope = central_difference(
        lambda c: jax.jit(meta_loss, static_argnums=0)(PLAIN, w, c), 1.3, 1.0, 1e-4
    )
    assert_trees_close(expected[1], slope, F64_DIFFERENCE)


@jax.custom_vjp
def reverse(x):
    return x


reverse.defvjp(lambda x: (x, None), lambda _, cotangent: (-0.5 * cotangent,))


@pytest.mark.parametrize("mixed", [False, True])
def test_rules_that_are_no_derivative_are_transposed_by_reverse_mode(mixed):
    """Gradient reversal: what trains is no gradient, its Jacobian not symmetric."""
    adjoint = Unroll(mixed=mixed)

    def meta_loss(params, c=1.3):
        def objective(p):
            return (jnp.sin(p["head"]) * reverse(c * p["body"] ** 2) - 1) ** 2

        tx = jmeta.optim.sgd(0.1)
        run = jmeta.inner_loop(objective, params, tx, 3, adjoint=adjoint)
        return run.params["head"] + run.params["body"] ** 2

    at = {"head": 0.4, "body": 0.7}
    found, jitted = jax.jit(jax.grad(meta_loss))(at), jax.jit(meta_loss)
    slopes = {
        name: central_difference(jitted, at, {k: float(k == name) for k in at})
        for name in at
    }
    assert_trees_close(found, slopes, rtol=F64_DIFFERENCE)


@pytest.mark.standard_promotion("mixes real and complex numbers")
@pytest.mark.parametrize("adjoint", [PLAIN, Unroll()])
def test_complex_values_carry_derivatives(adjoint):
    def meta_loss(re, im):
        c = jax.lax.complex(re, im)

        def objective(w):
            return jnp.abs(w * c - (1 + 2j)) ** 2, w * c

        run = jmeta.inner_loop(
            objective, 0.5, jmeta.optim.sgd(0.1), 3, has_aux=True, adjoint=adjoint
        )
        return run.params + jnp.sum(run.aux.imag)

    at = (1.0, 0.3)
    grads = jax.jit(jax.grad(meta_loss, argnums=(0, 1)))(*at)
    for i, direction in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        slope = central_difference(lambda at: meta_loss(*at), at, direction)
        assert_trees_close(grads[i], slope, F64_DIFFERENCE)
