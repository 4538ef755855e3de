"""Training on each device's own data inside `jax.shard_map`, with its defaults."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import jmeta
from jmeta import GMRES, ForwardMode, Implicit, Neumann, NormalCG, Unroll
from tests.cases import PLAIN
from tests.helpers import F64_SAME, assert_trees_close

SPLIT, SAME = P("task"), P()

ADJOINTS = {
    "plain": PLAIN,
    "mixed": Unroll(),
    "nested": Unroll(checkpoint="nested"),
    "last": Unroll(last=4),
    "forward": ForwardMode(),
}
SOLVED = {
    "cg": Implicit(),
    "tol": Implicit(tol=1e-12),
    "normal_cg": Implicit(solver=NormalCG()),
    "neumann": Implicit(solver=Neumann(terms=80, scale=0.2)),
}
STEPS = 4


def mesh():
    return jax.make_mesh((4,), ("task",), axis_types=(AxisType.Auto,))


def data():
    """One task for each device, and what all of them share."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 2)))
    scales = jnp.asarray(rng.uniform(1, 1.5, size=2))
    return x, (jnp.asarray(rng.normal(size=2)), 0.1, scales)


def task_loss(adjoint, steps, captured, shared, x):
    """Train on a device's `x`; the loss sees it as its batch or by capture."""
    w, lr, scales = shared

    def objective(w, x):
        return jnp.sum(jnp.cosh(scales * (w - x)))

    closure = lambda w: objective(w, x)
    run = jmeta.inner_loop(
        closure if captured else objective, w, jmeta.optim.sgd(momentum=0.5), steps,
        batch=None if captured else x, hyperparams={"lr": lr}, adjoint=adjoint,
    )  # fmt: skip
    return jnp.sum(run.params**3)


@functools.cache
def one_device(steps, which):
    """Value and gradient of the mean over tasks, without a mesh."""
    x, shared = data()

    def mean(parts):
        return jnp.mean(
            jax.vmap(
                lambda x: task_loss(PLAIN, steps, True, insert(shared, which, parts), x)
            )(x)
        )

    return jax.jit(jax.value_and_grad(mean))([shared[i] for i in which])


def insert(shared, which, parts):
    shared = list(shared)
    for i, part in zip(which, parts, strict=True):
        shared[i] = part
    return shared


def on_devices(adjoint, steps, captured, inside, which):
    x, shared = data()

    def local_mean(parts, x):
        loss = task_loss(adjoint, steps, captured, insert(shared, which, parts), x[0])
        return jax.lax.pmean(loss, "task")

    def spread(fun):
        specs = {"in_specs": (SAME, SPLIT), "out_specs": SAME}
        return jax.shard_map(fun, mesh=mesh(), **specs)

    if inside:
        fun = spread(jax.value_and_grad(local_mean))
    else:
        fun = jax.value_and_grad(spread(local_mean))
    return jax.jit(fun)([shared[i] for i in which], x)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("captured", [True, False], ids=["captured", "argument"])
@pytest.mark.parametrize("name", ADJOINTS)
def test_each_device_trains_on_its_own_data(name, captured, inside):
    which = (0, 1, 2)
    found = on_devices(ADJOINTS[name], STEPS, captured, inside, which)
    expected = one_device(STEPS, which)
    assert jnp.all(jnp.abs(expected[1][0]) > 1e-3)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-13)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("name", SOLVED)
def test_implicit(name, inside):
    found = on_devices(SOLVED[name], 120, True, inside, (2,))
    # the loop is converged, the unrolled derivative to the same digits
    assert_trees_close(found, one_device(120, (2,)), rtol=1e-8, atol=1e-9)


def test_gmres_is_refused():
    adjoint = Implicit(solver=GMRES())
    with pytest.raises(ValueError, match=r"shard_map.*\['task'\].*NormalCG"):
        on_devices(adjoint, 2, True, True, (2,))


def test_what_is_the_same_on_all_devices_stays_so():
    """Nothing differs over devices, so neither does the result: `out_specs=P()`."""
    _, shared = data()
    loss = lambda w: task_loss(Unroll(), STEPS, True, (w, *shared[1:]), 0.3)
    grad = jax.shard_map(jax.grad(loss), mesh=mesh(), in_specs=SAME, out_specs=SAME)
    assert_trees_close(
        jax.jit(grad)(shared[0]), jax.jit(jax.grad(loss))(shared[0]), F64_SAME
    )


@pytest.mark.parametrize("adjoint", [Unroll(), PLAIN, ForwardMode()], ids=str)
def test_a_count_of_steps_for_each_device(adjoint):
    """The slices are the same on every device; which of them a step sees is not."""
    x, (w, lr, _) = data()
    counts, lrs = jnp.arange(1, 5, dtype=jnp.int32), jnp.full(4, lr)

    def loss(lr, count, steps):
        run = jmeta.inner_loop(
            lambda w, x: jnp.sum(jnp.cosh(w - x)), w, jmeta.optim.sgd(), steps,
            batches=x[:steps], hyperparams={"lr": lr}, active=count, adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(run.params**3)

    def local(count, lr):
        return jax.grad(loss)(lr[0], count[0], STEPS)[None]

    mapped = jax.shard_map(local, mesh=mesh(), in_specs=SPLIT, out_specs=SPLIT)
    expected = [jax.grad(loss)(lr, None, int(steps)) for steps in counts]
    assert_trees_close(jax.jit(mapped)(counts, lrs), jnp.stack(expected), F64_SAME)


def test_no_step_with_a_derivative():
    """Each device's slices of a loop whose last steps are none of its steps."""
    shift = jnp.ones(2)

    def end(x):
        run = jmeta.inner_loop(
            lambda w, x: jnp.sum((w - x * shift) ** 2), x, jmeta.optim.sgd(lr=0.1),
            3, batches=jnp.stack(3 * [x]), adjoint=Unroll(last=0),
        )  # fmt: skip
        return jnp.sum(run.params**3) + jnp.sum(x**2)

    x, _ = data()
    each = lambda x: jax.grad(end)(x[0])[None]
    split = jax.shard_map(each, mesh=mesh(), in_specs=SPLIT, out_specs=SPLIT)
    assert_trees_close(jax.jit(split)(x), 2 * x, F64_SAME)
