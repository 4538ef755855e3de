"""Every adjoint that applies gives one hypergradient, of one size of program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, Implicit, Unroll
from tests.adjoint_cases import ADJOINTS, PAIRS, cases, normal
from tests.cases import PLAIN, mlp, mlp_params
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    count_equations,
)


@functools.cache
def differences(name):
    """The loss's slopes along two random directions, by central differences."""
    case = cases()[name]
    fun = jax.jit(functools.partial(case.meta_loss, PLAIN))
    rng = np.random.default_rng(12)
    found = []
    for _ in range(2):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), case.args)
        slope = central_difference(fun, case.args, direction, 1e-4)
        assert abs(slope) > 1e-3
        found.append((direction, slope))
    return fun(case.args), found


@functools.cache
def plain(name):
    case = cases()[name]
    return jax.jit(jax.grad(functools.partial(case.meta_loss, PLAIN)))(case.args)


def agrees(grads, name):
    """With the differences and, entry by entry, with JAX's own derivative."""
    value, slopes = differences(name)
    for direction, slope in slopes:
        along = sum(
            jnp.vdot(g, d)
            for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
        )
        assert_trees_close(along, slope, rtol=F64_DIFFERENCE)
    tolerance = F64_SAME if name != "converged" else 1e-9  # the solver's
    assert_trees_close(grads, plain(name), rtol=tolerance, atol=tolerance)
    return value


def slow_unless(pairs, quick):
    """Mark what costs much to compile and what a similar pair shows too."""
    mark = pytest.mark.slow
    return [p if p in quick else pytest.param(*p, marks=mark) for p in pairs]


QUICK = [p for p in PAIRS if p[1] != "plain" and (p[1] != "nested" or p[0] == "mlp")]


@pytest.mark.parametrize(("name", "adjoint"), slow_unless(PAIRS, QUICK))
def test_agree_with_each_other_and_with_differences(name, adjoint):
    case = cases()[name]
    meta_loss = functools.partial(case.meta_loss, ADJOINTS[adjoint])
    value, grads = jax.jit(jax.value_and_grad(meta_loss))(case.args)
    assert_trees_close(value, agrees(grads, name), rtol=F64_SAME)


BATCHED = [
    ("mlp", "mixed"),
    ("mlp", "forward"),
    ("attention", "nested"),
    ("learned_loss", "forward"),
    ("data_weights", "mixed"),
    ("distilled", "forward"),
    ("converged", "implicit"),
]


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
@pytest.mark.parametrize(
    ("name", "adjoint"), slow_unless(BATCHED, [BATCHED[i] for i in (3, 4, 6)])
)
def test_batches_of_loops(name, adjoint, order):
    """The first of two tasks is the problem itself, the second another."""
    case = cases()[name]
    fun = functools.partial(case.meta_loss, ADJOINTS[adjoint])
    two = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), case.args)
    if order == "vmap of grad":
        found = jax.jit(jax.vmap(jax.grad(fun)))(two)
    else:
        found = jax.jit(jax.grad(lambda args: jnp.sum(jax.vmap(fun)(args))))(two)
    first, second = (jax.tree.map(lambda x, i=i: x[i], found) for i in (0, 1))
    agrees(first, name)
    leaves = zip(*map(jax.tree.leaves, (first, second)), strict=True)
    assert all(jnp.all(a != b) for a, b in leaves)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "adjoint"), [("mlp", "mixed"), ("mlp", "forward")])
def test_eager_agrees(name, adjoint):
    case = cases()[name]
    agrees(
        jax.grad(functools.partial(case.meta_loss, ADJOINTS[adjoint]))(case.args), name
    )


def gru(params, x):
    """A recurrent cell over time in a Python loop: `[T, N, 2] -> [N, 3]`."""
    h = jnp.zeros((x.shape[1], 3))
    for x_t in x:
        both = jnp.concatenate([x_t, h], -1)
        z, r = jnp.split(jax.nn.sigmoid(both @ params["gates"]), 2, -1)
        candidate = jnp.tanh(jnp.concatenate([x_t, r * h], -1) @ params["candidate"])
        h = (1 - z) * h + z * candidate
    return h


def lstm(params, x):
    h = c = jnp.zeros((x.shape[1], 3))
    for x_t in x:
        gates = jnp.concatenate([x_t, h], -1) @ params["gates"]
        i, f, g, o = jnp.split(gates, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h


@pytest.mark.parametrize(
    ("cell", "shapes"),
    [
        pytest.param(
            gru, {"gates": (5, 6), "candidate": (5, 3)}, marks=pytest.mark.slow
        ),
        (lstm, {"gates": (5, 12)}),
    ],
    ids=["gru", "lstm"],
)
def test_a_bad_compiler_is_noticed(cell, shapes):
    """Jitted equals eager: XLA of jax 0.10.2 miscompiles these on CPUs.

    At the full level of optimization, unlike other tests, since that is what is tested.
    """
    start = {k: normal(i, *shape) for i, (k, shape) in enumerate(shapes.items())}
    x, y = normal(2, 4, 3, 2), normal(3, 3, 3)

    def meta_loss(params, lr):
        loss = lambda p, x: jnp.mean((cell(p, x) - y) ** 2)
        run = jmeta.inner_loop(
            loss, params, jmeta.optim.sgd(), 1, batch=x, hyperparams={"lr": lr},
            adjoint=PLAIN,
        )  # fmt: skip
        return loss(run.params, x[::-1])

    grad = jax.value_and_grad(meta_loss, argnums=(0, 1))
    expected = grad(start, jnp.asarray(0.5))
    assert_trees_close(jax.jit(grad)(start, 0.5), expected, rtol=F64_SAME, atol=1e-14)


def scalable(adjoint, steps):
    """A hypergradient that `Implicit` and the others can all take."""

    def meta_loss(c):
        objective = lambda w: jnp.sum(jnp.cosh(w - c))
        tx = jmeta.optim.sgd(0.1, momentum=0.5)
        run = jmeta.inner_loop(objective, jnp.ones(2), tx, steps, adjoint=adjoint)
        return jnp.sum(run.params**2) + jnp.sum(run.losses)

    return jax.grad(meta_loss)


@pytest.mark.parametrize(
    "adjoint", [*ADJOINTS.values(), Implicit(tol=1e-6), Unroll(last=8)], ids=str
)
def test_the_program_does_not_grow_with_steps(adjoint):
    short, long = (
        count_equations(jax.make_jaxpr(scalable(adjoint, steps))(jnp.ones(2)))
        for steps in (16, 4096)
    )
    assert short == long


@pytest.mark.slow
def test_memory_in_steps():
    """Constant forward and implicitly, like the root nested, like the steps plainly."""
    params = mlp_params(hidden=16)
    x = normal(0, 32, 3)

    def temporaries(adjoint, steps):
        def meta_loss(c):
            setting = {"lr": 0.1} if isinstance(adjoint, Implicit) else {"lr": c}
            run = jmeta.inner_loop(
                lambda p, x: jnp.mean(mlp(p, c * x) ** 4), params, jmeta.optim.sgd(),
                steps, batch=x, hyperparams=setting, adjoint=adjoint,
            )  # fmt: skip
            return jnp.mean(mlp(run.params, x) ** 2)

        compiled = jax.jit(jax.grad(meta_loss)).lower(0.1).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    per_step = 3 * 8  # a loss, its tangent, the step's index
    for adjoint in (ForwardMode(), Implicit()):
        grown = temporaries(adjoint, 4096) - temporaries(adjoint, 64)
        assert grown <= per_step * (4096 - 64)
    nested = Unroll(checkpoint="nested")
    less_scalars = lambda steps: temporaries(nested, steps) - per_step * steps
    # 64 times the steps: 8 times the kept parameters and gradients
    assert less_scalars(4096) <= 8 * less_scalars(64)
    assert temporaries(Unroll(), 4096) > 30 * temporaries(Unroll(), 64)
