"""Batches of tasks: chunks and devices change the memory, not the numbers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import jmeta
from jmeta import Task, task_map, task_value_and_grad
from tests.cases import mlp, mlp_params
from tests.helpers import F32, F64_SAME, assert_trees_close, compilations

ROUNDING = 1e-14

TASKS = 7


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def maml(params, task, key=None):
    """Two steps of adaptation; aux has floats, integers and the task's key."""
    run = jmeta.inner_loop(
        mlp, params, jmeta.optim.sgd(0.1), 2, loss_fn=mse, batch=task.support
    )
    x, y = task.query
    noise = 0.0 if key is None else jax.random.normal(key, y.shape)
    outputs = mlp(run.params, x)
    return mse(outputs + noise, y), {"outputs": outputs, "count": jnp.int32(y.size)}


def tasks(count=TASKS, dtype: Any = np.float64):
    rng = np.random.default_rng(0)
    pair = lambda: (
        rng.normal(size=(count, 4, 3)).astype(dtype),
        rng.normal(size=(count, 4, 2)).astype(dtype),
    )
    return Task(support=pair(), query=pair())


def maml_loss(params, task, key=None):
    return maml(params, task, key)[0]


@functools.cache
def one_by_one(count=TASKS, keyed=False):
    """The mean over a Python loop of tasks."""
    fun = jax.jit(jax.value_and_grad(maml, has_aux=True))
    results = []
    for i in range(count):
        key = jax.random.fold_in(jax.random.key(5), i) if keyed else None
        task = jax.tree.map(lambda x, i=i: x[i], tasks(count))
        results.append(fun(mlp_params(), task, key))
    (losses, aux), grads = jax.tree.map(lambda *x: jnp.stack(x), *results)
    mean = jax.tree.map(lambda x: x.mean(0), (losses, grads))
    return (mean[0], aux), mean[1]


def mesh(name):
    shape, names = {"1-D": ((4,), ("t",)), "2-D": ((2, 2), ("a", "b"))}[name[:3]]
    kind = AxisType.Explicit if name.endswith("explicit") else AxisType.Auto
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


MESHES = ["1-D auto", "1-D explicit", "2-D auto", "2-D explicit"]


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 7, 100])
def test_chunks(chunk_size):
    step = task_value_and_grad(maml, chunk_size=chunk_size, has_aux=True)
    found = jax.jit(step)(mlp_params(), tasks())
    assert_trees_close(found, one_by_one(), rtol=F64_SAME, atol=ROUNDING)
    assert found[0][1]["count"].dtype == jnp.int32


@pytest.mark.parametrize(
    ("name", "count"),
    [("1-D auto", 1), ("1-D auto", 7), ("2-D explicit", 4), ("2-D auto", 5)],
)
def test_devices(name, count):
    step = task_value_and_grad(maml, chunk_size=1, mesh=mesh(name), has_aux=True)
    found = jax.jit(step)(mlp_params(), tasks(count))
    assert_trees_close(found, one_by_one(count), rtol=F64_SAME, atol=ROUNDING)


def quadratic(w, task):
    return jnp.sum(jnp.cosh(w - task))


@pytest.mark.parametrize("set_mesh", [False, True], ids=["", "set_mesh"])
@pytest.mark.parametrize(
    ("name", "count"), [*((name, 7) for name in MESHES), (MESHES[-1], 8)]
)
def test_tasks_that_lie_on_devices(name, count, set_mesh):
    """As arguments and inside the user's jax.jit, split or not, whatever the axes."""
    w, at = jnp.asarray(0.3), mesh(name)
    data = jnp.asarray(np.random.default_rng(1).normal(size=(count, 3)))
    expected = jax.jit(task_value_and_grad(quadratic))(w, data)
    step = task_value_and_grad(quadratic, chunk_size=1, mesh=at)
    specs = [P(at.axis_names), P()] if count == 8 else [P()]
    for spec in specs:
        split = jax.device_put(data, NamedSharding(at, spec))
        inside = lambda data: step(w, 2.0 * (0.5 * data))
        if set_mesh:
            with jax.set_mesh(at):
                found = jax.jit(step)(w, split), jax.jit(inside)(split)
        else:
            found = jax.jit(step)(w, split), jax.jit(inside)(split)
        for each in found:
            assert_trees_close(each, expected, rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.parametrize("kwargs", [{"chunk_size": 2}, {"chunk_size": 3, "mesh": 1}])
def test_keys_follow_the_task(kwargs):
    if "mesh" in kwargs:
        kwargs = kwargs | {"mesh": mesh("1-D auto")}
    step = jax.jit(task_value_and_grad(maml, has_aux=True, **kwargs))
    found = step(mlp_params(), tasks(), jax.random.key(5))
    expected = one_by_one(keyed=True)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)
    assert abs(expected[0][0] - one_by_one()[0][0]) > 1e-3


@pytest.mark.parametrize("kwargs", [{"chunk_size": 3}, {"chunk_size": 1, "mesh": 1}])
def test_float32(kwargs):
    """To 1e-5 of a leaf's norm; no double slips in where x64 is on."""
    if "mesh" in kwargs:
        kwargs = kwargs | {"mesh": mesh("1-D auto")}
    params = jax.tree.map(jnp.float32, mlp_params())
    args = params, tasks(dtype=np.float32)
    expected = jax.jit(task_value_and_grad(maml_loss))(*args)
    found = jax.jit(task_value_and_grad(maml_loss, **kwargs))(*args)
    for got, want in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert got.dtype == want.dtype == jnp.float32
        assert jnp.linalg.norm(got - want) <= F32 * jnp.linalg.norm(want)


def test_what_a_task_may_be_and_give():
    """Keys, integers, numpy in a closure; a loss alone, or with aux."""
    keys = jax.random.split(jax.random.key(1), 5)
    ints = np.arange(5)

    def loss(w, task):
        key, i = task
        return (w - jax.random.normal(key)) ** 2 * (1 + i.astype(float))

    pair = lambda w, task: (loss(w, task), task[0])
    expected = jax.jit(
        jax.value_and_grad(
            lambda w: jnp.mean(jax.vmap(lambda *t: loss(w, t))(keys, ints))
        )
    )(0.3)
    settings: list[dict[str, Any]] = [{}, {"chunk_size": 1}, {"chunk_size": 3}]
    for kwargs in settings:
        alone = jax.jit(
            lambda w, k=kwargs: task_value_and_grad(loss, **k)(w, (keys, ints))
        )
        with_aux = task_value_and_grad(pair, has_aux=True, **kwargs)
        (value, aux), grad = jax.jit(with_aux)(0.3, (keys, ints))
        assert_trees_close(alone(0.3), expected, rtol=F64_SAME)
        assert_trees_close((value, grad), expected, rtol=F64_SAME)
        assert_trees_close(aux, keys, rtol=0)
        with pytest.raises(TypeError, match=r"got a tuple of 2\. .* `has_aux=True`"):
            task_value_and_grad(pair, **kwargs)(0.3, (keys, ints))


@pytest.mark.parametrize(
    "kwargs", [{}, {"chunk_size": 1}, {"chunk_size": 3, "mesh": 1}]
)
def test_task_map(kwargs):
    if "mesh" in kwargs:
        kwargs = kwargs | {"mesh": mesh("2-D auto")}
    evaluate = jax.jit(task_map(lambda w, task, key: maml(w, task, key)[1], **kwargs))
    (_, aux), _ = one_by_one()
    found = evaluate(mlp_params(), tasks(), jax.random.key(5))
    assert_trees_close(found, aux, rtol=F64_SAME, atol=ROUNDING)


def test_a_step_compiles_once():
    """The user jits the outer step; new numbers of the same shape reuse it."""
    tx = jmeta.optim.sgd(0.1)
    step = task_value_and_grad(maml_loss, chunk_size=2, mesh=mesh("1-D auto"))

    @jax.jit
    def outer_step(params, opt_state, tasks):
        loss, grads = step(params, tasks)
        updates, opt_state = tx.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, loss

    params, batch = mlp_params(), tasks()
    params, opt_state, first = outer_step(params, tx.init(params), batch)
    # the first results lie on the mesh
    params, opt_state, second = outer_step(params, opt_state, batch)
    with compilations() as compiled:
        params, opt_state, third = outer_step(params, opt_state, batch)
    assert not compiled
    assert third < second < first


def test_memory_is_that_of_a_chunk():
    params = mlp_params(hidden=32)
    batch = jax.tree.map(lambda x: jnp.tile(x, (2, 32, 1)), tasks(8))

    def temporaries(count, **kwargs):
        part = jax.tree.map(lambda x: x[:count], batch)
        step = jax.jit(task_value_and_grad(maml_loss, **kwargs))
        analysis = step.lower(params, part).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    one, all_at_once = temporaries(1), temporaries(16)
    # XLA copies the tasks into its loop; the gradients are added up
    kept = sum(x.nbytes for x in jax.tree.leaves(batch))
    kept += 3 * sum(p.nbytes for p in params.values())
    assert all_at_once > 8 * one
    assert temporaries(16, chunk_size=1) <= 1.1 * one + kept
    assert temporaries(16, chunk_size=4) <= 1.1 * temporaries(4) + kept


@pytest.mark.parametrize("chunk_size", [0, -2])
def test_a_chunk_holds_a_task(chunk_size):
    message = f"`chunk_size` must be at least 1; got {chunk_size}"
    for make in (task_value_and_grad, task_map):
        with pytest.raises(ValueError, match=message):
            make(quadratic, chunk_size=chunk_size)(0.0, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("tasks", "got"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"\[\(3,\), \(4,\)\]"),
        ({"x": np.ones((3, 2)), "y": 1.0}, r"\[\(\), \(3,\)\]"),
        (1.0, r"\[\(\)\]"),
        (np.ones((0, 2)), r"\[\(0,\)\]"),
        ((), r"\[\]"),
    ],
    ids=["lengths", "a scalar", "scalars", "no task", "nothing"],
)
def test_tasks_have_one_leading_length(tasks, got):
    for make in (task_value_and_grad, task_map):
        with pytest.raises(ValueError, match=f"same leading length.*got {got}"):
            make(lambda w, task: w)(0.0, tasks)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_the_loss_is_a_scalar_with_aux_where_asked(chunk_size):
    data = jnp.ones((3, 2))
    make = functools.partial(task_value_and_grad, chunk_size=chunk_size)
    with pytest.raises(ValueError, match=r"loss that is a scalar; got .* \(2,\).*mean"):
        make(lambda w, task: w * task)(0.0, data)
    with pytest.raises(ValueError, match=r"`has_aux=True`.*`\(loss, aux\)`; got"):
        make(quadratic, has_aux=True)(0.0, data)
    with pytest.raises(ValueError, match=r"`has_aux=True`.*`\(loss, aux\)`; got"):
        make(lambda w, task: (w, w, w), has_aux=True)(0.0, data)


def test_what_has_no_entries_is_stacked_too():
    """Such as the losses of a loop of no steps, in chunks."""
    nothing = lambda w, task: (w * task, jnp.zeros((0, 3)))
    tasks = jnp.arange(5.0)
    for chunk_size in (None, 2):
        products, empty = jmeta.task_map(nothing, chunk_size=chunk_size)(2.0, tasks)
        assert products.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert empty.shape == (5, 0, 3)
