"""A number of active steps is a loop of that length: in value and in every derivative.

The losses have no finite derivative at the point that the first step reaches, or where
they start, so that whatever computes a step that is not taken there, and multiplies its
derivative by 0, gives NaN.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, Unroll, inner_loop
from tests.cases import PLAIN
from tests.helpers import F64_SAME, assert_trees_close

STEPS = 5
ROUNDING = 1e-13
NESTED = Unroll(mixed=False, checkpoint="nested")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def arguments():
    """Everything that a loop can be differentiated by."""
    return {
        "start": jnp.array([1.5, 1.0]),
        "center": jnp.array([1.0, 1.0]),
        "lr": 0.5 * jnp.ones(STEPS),
        "scale": jnp.ones((STEPS, 1)),
        "clip": jnp.asarray(1.0),
        "decay": jnp.asarray(0.0),
    }


def everything(adjoint, args, steps, active=None):
    """Train on the distance to a centre: after one step it is 0, its slope NaN."""

    def objective(w, state, batch, *, key):
        scale, _ = batch
        distance = jnp.sqrt(jnp.sum((w - args["center"]) ** 2))
        aux = {"distance": distance, "ones": jnp.ones((2,), int), "key": key}
        return (jnp.sum(scale) * distance, aux), {"count": state["count"] + distance}

    keys = jax.random.split(jax.random.key(1), STEPS)
    return inner_loop(
        objective, args["start"], jmeta.optim.sgd(momentum=0.5), steps,
        batches=(args["scale"][:steps], keys[:steps]),
        # the weight decay is -inf from the third step on
        hyperparams={
            "lr": args["lr"][:steps],
            "weight_decay": lambda t: args["decay"] * jnp.log(2 - t),
        },
        state={"count": 0.0}, key=jax.random.key(0), has_aux=True, history=True,
        grad_callback=lambda g: args["clip"] * g / jnp.sqrt(jnp.sum(g**2)),
        adjoint=adjoint, active=active,
    )  # fmt: skip


def outer(run: Any) -> jax.Array:
    """A scalar of all that a run gives."""
    weights = jnp.array([1.0, 2.0])
    kept = run.history[0] + run.parameters(time=-1) ** 2
    buffer = run.opt_state.momentum_buffer
    given = jnp.nansum(run.losses) + jnp.nansum(run.aux["distance"] ** 2)
    return jnp.sum(weights * (run.params**3 + kept + buffer)) + given


@pytest.fixture(scope="module")
def expected():
    """Value and gradient of the loops of 0 and 1 steps, by JAX alone."""
    with jax.enable_x64(True):
        grad = jax.value_and_grad(lambda args, n: outer(everything(PLAIN, args, n)))
        found = [jax.jit(grad, static_argnums=1)(arguments(), n) for n in (0, 1)]
        for _, grads in found:
            chex.assert_tree_all_finite(grads)
        assert all(map(np.any, jax.tree.leaves(found[1][1])))
        return found


COUNTS = (1, 0, 1)


@pytest.mark.parametrize("adjoint", [Unroll(), slow(NESTED), ForwardMode()], ids=str)
def test_vmap_of_grad(adjoint, expected):
    def value(count, args):
        run = everything(adjoint, args, STEPS, count)
        return outer(run), run

    grad = jax.value_and_grad(value, argnums=1, has_aux=True)
    found = jax.jit(jax.vmap(grad, (0, None)))(jnp.array(COUNTS), arguments())
    for i, count in enumerate(COUNTS):
        (loss, run), grads = jax.tree.map(lambda leaf: leaf[i], found)  # noqa: B023
        assert_trees_close((loss, grads), expected[count], rtol=F64_SAME, atol=ROUNDING)
        assert run.steps_taken == count
        assert jnp.isnan(run.losses[count:]).all()
        assert jnp.isnan(run.aux["distance"][count:]).all()
        assert not run.aux["ones"][count:].any()
        assert run.aux["ones"][:count].all()


@pytest.mark.parametrize("adjoint", [Unroll(), PLAIN, ForwardMode()], ids=str)
def test_grad_of_vmap(adjoint, expected):
    weights = jnp.array([1.0, 10.0, 100.0])

    def value(args):
        one = lambda count: outer(everything(adjoint, args, STEPS, count))
        return weights @ jax.vmap(one)(jnp.array(COUNTS))

    found = jax.jit(jax.grad(value))(arguments())
    grads = [expected[count][1] for count in COUNTS]
    total = jax.tree.map(lambda *g: jnp.tensordot(weights, jnp.stack(g), 1), *grads)
    assert_trees_close(found, total, rtol=F64_SAME, atol=ROUNDING)


def roots(adjoint, x, steps, active=None):
    """Two terms whose slope is infinite: at the start in `c`, after a step in `lr`."""
    w, lr, c, d = x
    objective = lambda w: jnp.sqrt(jnp.sum((w - 1.0) ** 2)) + d * jnp.sqrt(c * w[1])
    return inner_loop(
        objective, jnp.stack([w, 0.0 * w]), jmeta.optim.sgd(), steps,
        hyperparams={"lr": lr}, adjoint=adjoint, active=active,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("adjoint", "steps"),
    [
        (Unroll(), 1),
        (Unroll(), 5),
        (PLAIN, 1),
        (ForwardMode(), 5),
        slow(Unroll(checkpoint=None, unroll=2), 5),
        slow(Unroll(checkpoint="nested"), 5),
        slow(Unroll(last=4), 5),
        slow(Unroll(last=2, checkpoint=None), 5),
        slow(NESTED, 5),
    ],
    ids=str,
)
def test_none_of_the_steps(adjoint, steps):
    """Not even the first: the identity, with its derivatives of every order."""

    def value(x, active):
        run = roots(adjoint, x, steps, active)
        return jnp.sum(run.params**3), run

    x = jnp.array([1.5, 0.5, 0.0, 1.0])
    grad = jax.grad(lambda x: value(x, 0)[0])
    hessian = jax.jit(lambda x: (grad(x), jax.jacrev(grad)(x)))
    slope = 3 * 1.5**2 if getattr(adjoint, "last", None) is None else 0.0
    found, second = hessian(x)
    assert_trees_close(found, jnp.array([slope, 0, 0, 0]), rtol=F64_SAME)
    curved = jnp.zeros((4, 4)).at[0, 0].set(6 * 1.5 if slope else 0.0)
    assert_trees_close(second, curved, rtol=F64_SAME)


def distance(adjoint, x, steps, active=None):
    """After a step of half the way the loss has no slope."""
    w, lr, c = x
    run = inner_loop(
        lambda w: jnp.sqrt((w - c) ** 2) * (1 + c * w), w, jmeta.optim.sgd(), steps,
        hyperparams={"lr": lr}, adjoint=adjoint, active=active,
    )  # fmt: skip
    return run.params**3 + jnp.nansum(run.losses**2)


@pytest.mark.parametrize(
    ("adjoint", "outside"),
    [
        (Unroll(), jax.jacrev),
        (PLAIN, jax.jacfwd),
        slow(Unroll(), jax.jacfwd),
        slow(NESTED, jax.jacrev),
        slow(ForwardMode(), jax.jacrev),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_second_derivatives(adjoint, outside):
    # w = c + 1/2 and a slope of 2.25 there: 2/9 of it lead to c
    x = jnp.array([1.5, 0.5 / 3.0, 1.0])
    value = lambda steps, active=None: lambda x: distance(adjoint, x, steps, active)
    exact = jax.jit(jax.jacrev(jax.grad(lambda x: distance(PLAIN, x, 1))))(x)
    assert jnp.isfinite(exact).all()
    found = jax.jit(jax.vmap(lambda n: outside(jax.grad(value(STEPS, n)))(x)))
    one, none = found(jnp.array([1, 0]))
    assert_trees_close(one, exact, rtol=F64_SAME, atol=ROUNDING)
    assert_trees_close(none, jnp.zeros((3, 3)).at[0, 0].set(9.0), rtol=F64_SAME)


def test_forward_mode_without_a_mixed_gradient():
    x, dots = jnp.array([1.5, 0.5 / 3.0, 1.0]), jnp.array([0.3, -0.2, 0.5])
    jvp = lambda f: jax.jvp(f, (x,), (dots,))
    found = jax.jit(lambda n: jvp(lambda x: distance(PLAIN, x, STEPS, n)))(1)
    exact = jax.jit(lambda: jvp(lambda x: distance(PLAIN, x, 1)))()
    assert_trees_close(found, exact, rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [Unroll(), PLAIN], ids=str)
def test_inside_another_loop(adjoint):
    def meta_loss(c, adjoints, steps, active=None):
        inner = lambda w: distance(adjoints[0], (w, 0.1, c), steps, active)
        tx = jmeta.optim.sgd(0.1)
        return inner_loop(inner, 1.5, tx, 2, adjoint=adjoints[1]).params

    one = jax.grad(lambda c, n: meta_loss(c, (Unroll(), adjoint), 2, n))
    found = jax.jit(jax.vmap(one, (None, 0)))(1.0, jnp.arange(3))
    grad = jax.jit(jax.grad(meta_loss), static_argnums=(1, 2))
    exact = [grad(1.0, (PLAIN, PLAIN), n) for n in range(3)]
    assert_trees_close(found, jnp.stack(exact), rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.parametrize(
    ("adjoint", "order"),
    [
        (Unroll(), "vmap of grad"),
        (Unroll(), "grad of vmap"),
        (PLAIN, "grad of vmap"),
        slow(PLAIN, "vmap of grad"),
        slow(ForwardMode(), "vmap of grad"),
        slow(ForwardMode(), "grad of vmap"),
    ],
    ids=str,
)
def test_what_is_captured_is_not_copied(adjoint, order):
    """Every task has the same data, by which nothing is differentiated."""
    data = jnp.ones((400, 100))
    tasks = 50

    def value(lr, count, active):
        run = inner_loop(
            lambda w: jnp.mean((data @ w) ** 2), jnp.ones(100), jmeta.optim.sgd(), 4,
            hyperparams={"lr": lr}, active=count if active else None, adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(run.params)

    def temporaries(active):
        over = jax.vmap(lambda lr, n: value(lr, n, active))
        fun = jax.grad(lambda lr, n: jnp.sum(over(lr, n)))
        if order == "vmap of grad":
            fun = jax.vmap(jax.grad(lambda lr, n: value(lr, n, active)))
        args = jnp.full(tasks, 0.1), jnp.arange(tasks) % 5
        memory: Any = jax.jit(fun).lower(*args).compile().memory_analysis()
        return memory.temp_size_in_bytes

    # a copy for each would be 50 times the data
    assert temporaries(True) < temporaries(False) + 2 * data.nbytes


def test_a_mean_over_the_steps_taken():
    """It is loud about a loss that is NaN, and about no loss at all."""

    def means(adjoint, start, active):
        objective = lambda w: jnp.sqrt(w)
        run = inner_loop(
            objective, start, jmeta.optim.sgd(0.5), 4, active=active, adjoint=adjoint
        )
        return run.mean_loss

    for adjoint in (Unroll(), ForwardMode()):
        grad = jax.value_and_grad(functools.partial(means, adjoint))
        starts, counts = jnp.array([4.0, -1.0, 4.0]), jnp.array([2, 2, 0])
        values, slopes = jax.jit(jax.vmap(grad))(starts, counts)
        # 4 - 0.5 / 4 = 3.875 is where the second loss is taken
        expected = (2 + np.sqrt(3.875)) / 2
        assert_trees_close(values[0], expected, rtol=F64_SAME)
        # d/dw (sqrt(w) + sqrt(w - 1 / (4 sqrt(w)))) / 2
        slope = (0.25 + (1 + 1 / 64) / (2 * np.sqrt(3.875))) / 2
        assert_trees_close(slopes[0], slope, rtol=F64_SAME)
        assert jnp.isnan(values[1])
        assert jnp.isnan(values[2])
        assert slopes[2] == 0


def test_a_traced_count_is_clamped():
    square = lambda w: w**2
    run = jax.jit(lambda n: inner_loop(square, 1.0, jmeta.optim.sgd(0.25), 3, active=n))
    for count, taken in ((-2, 0), (7, 3)):
        for dtype in ("int8", "int64"):
            found = run(jnp.asarray(count, dtype))
            assert found.steps_taken == taken
            assert_trees_close(found.params, 0.5**taken, rtol=F64_SAME)
