"""Wrong calls of `task_value_and_grad` and `task_map`, and tasks that are none."""

from typing import Any

import jax
import jax.numpy as jnp

import jmeta
from tests.wrong_calls.table import WrongCall

TASKS = jnp.arange(3.0)
KEY = jax.random.key(0)


def square(w, task):
    return (w - task) ** 2


def mean(
    fn: Any = square,
    params: Any = 1.0,
    tasks: Any = TASKS,
    key: Any = None,
    **kwargs: Any,
):
    return jmeta.task_value_and_grad(fn, **kwargs)(params, tasks, key)


def each(
    fn: Any = square,
    params: Any = 1.0,
    tasks: Any = TASKS,
    key: Any = None,
    **kwargs: Any,
):
    return jmeta.task_map(fn, **kwargs)(params, tasks, key)


def adapt(task):
    mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
    apply_fn, tx = lambda w, x: w * x, jmeta.optim.sgd(lr=0.1)
    return jmeta.algorithms.maml(apply_fn, tx, 1, loss_fn=mse)(1.0, task)


XY = (jnp.ones(2), jnp.ones(2))
TASK = jmeta.Task(support=XY, query=XY)
MESH = "a `jax.sharding.Mesh`"
PAIR = "Make the task by `jmeta.Task("

ROWS = [
    WrongCall(
        *("task_value_and_grad-array", lambda: mean(TASKS)),
        *(TypeError, "task_loss", "an array of shape (3,)", "jmeta.algorithms"),
    ),
    WrongCall(
        *("task_value_and_grad-string", lambda: mean("maml")),
        *(TypeError, "task_loss", "'maml'", "jmeta.algorithms"),
    ),
    WrongCall(
        *("task_value_and_grad-another-third", lambda: mean(lambda w, t, rng: w)),
        *(TypeError, "task_loss", "(w, t, rng)", "a parameter named `key`"),
    ),
    WrongCall(
        *("task_value_and_grad-one-argument", lambda: mean(lambda w: w)),
        *(TypeError, "task_loss", "a function of (w)", "take 2 arguments"),
    ),
    WrongCall(
        *("task_value_and_grad-no-key", lambda: mean(lambda w, t, key: w)),
        *(TypeError, "task_loss", "None", "Pass `key=jax.random.key(0)`"),
    ),
    WrongCall(
        *("task_value_and_grad-integer-key", lambda: mean(key=0)),
        *(TypeError, "key", "0", "jax.random.key(0)"),
    ),
    WrongCall(
        *("task_value_and_grad-many-keys", lambda: mean(key=jax.random.split(KEY, 3))),
        *(ValueError, "key", "shape (3,)", "Pass one of them"),
    ),
    WrongCall(
        *("task_value_and_grad-pair", lambda: mean(lambda w, t: (w, t))),
        *(TypeError, "task_loss", "a tuple of 2", "pass `has_aux=True`"),
    ),
    WrongCall(
        *("task_value_and_grad-triple", lambda: mean(lambda w, t: (w, t, t))),
        *(TypeError, "task_loss", "a tuple of 3", "pass `has_aux=True`"),
    ),
    WrongCall(
        *("task_value_and_grad-loss-alone", lambda: mean(has_aux=True)),
        *(ValueError, "task_loss", "a traced", "Leave `has_aux` out"),
    ),
    WrongCall(
        "task_value_and_grad-triple-with-aux",
        lambda: mean(lambda w, t: (w, t, t), has_aux=True),
        *(ValueError, "task_loss", "a tuple of 3", "`(loss, aux)`"),
    ),
    WrongCall(
        *("task_value_and_grad-vector", lambda: mean(lambda w, t: w * jnp.ones(2))),
        *(ValueError, "task_loss", "an array of shape (2,)", ".mean()"),
    ),
    WrongCall(
        *("task_value_and_grad-number", lambda: mean(lambda w, t: 1.0)),
        *(TypeError, "task_loss", "1.0", "a JAX array"),
    ),
    WrongCall(
        *("task_value_and_grad-none", lambda: mean(lambda w, t: None)),
        *(TypeError, "task_loss", "None", "a scalar loss"),
    ),
    WrongCall(
        "task_value_and_grad-integer-loss",
        lambda: mean(lambda w, t: jnp.round(w).astype(int)),
        *(TypeError, "task_loss", "dtype int", "no gradient"),
    ),
    WrongCall(
        *("task_value_and_grad-has_aux-string", lambda: mean(has_aux="yes")),
        *(TypeError, "has_aux", "'yes'", "True or False"),
    ),
    WrongCall(
        *("task_value_and_grad-params-none", lambda: mean(params=None)),
        *(TypeError, "meta_params", "None", "float arrays"),
    ),
    WrongCall(
        *("task_value_and_grad-params-integers", lambda: mean(params={"w": 1})),
        *(TypeError, "meta_params", "1 at the leaf", "capture what is not trained"),
    ),
    WrongCall(
        *("task_value_and_grad-params-string", lambda: mean(params="w")),
        *(TypeError, "meta_params", "'w'", "float arrays"),
    ),
    WrongCall(
        *("task_value_and_grad-tasks-string", lambda: mean(tasks="abc")),
        *(TypeError, "tasks", "'abc'", "jmeta.data.batch"),
    ),
    WrongCall(
        *("task_value_and_grad-tasks-sampler", lambda: mean(tasks=square)),
        *(TypeError, "tasks", "the function square", "jmeta.data.batch"),
    ),
    WrongCall(
        *("task_value_and_grad-tasks-none", lambda: mean(tasks=None)),
        *(ValueError, "tasks", "[]", "jmeta.data.batch"),
    ),
    WrongCall(
        *("task_value_and_grad-tasks-lengths", lambda: mean(tasks=(TASKS, XY[0]))),
        *(ValueError, "tasks", "[(2,), (3,)]", "jmeta.data.batch"),
    ),
    WrongCall(
        *("task_value_and_grad-mesh-string", lambda: mean(mesh="x")),
        *(TypeError, "mesh", "'x'", MESH),
    ),
    WrongCall(
        *("task_value_and_grad-mesh-devices", lambda: mean(mesh=jax.devices())),
        *(TypeError, "mesh", "a list", "jax.make_mesh"),
    ),
    WrongCall(
        *("task_value_and_grad-chunk_size-string", lambda: mean(chunk_size="2")),
        *(TypeError, "chunk_size", "'2'", "Python integer"),
    ),
    WrongCall(
        *("task_value_and_grad-chunk_size-true", lambda: mean(chunk_size=True)),
        *(TypeError, "chunk_size", "True", "Python integer"),
    ),
    WrongCall(
        *("task_value_and_grad-chunk_size-float", lambda: mean(chunk_size=1.5)),
        *(TypeError, "chunk_size", "1.5", "Python integer"),
    ),
    WrongCall(
        *("task_value_and_grad-chunk_size-zero", lambda: mean(chunk_size=0)),
        *(ValueError, "chunk_size", "0", "at least 1"),
    ),
    WrongCall(
        *("task_map-number", lambda: each(3)),
        *(TypeError, "fn", "3", "a function"),
    ),
    WrongCall(
        *("task_map-another-third", lambda: each(lambda w, t, rng: w)),
        *(TypeError, "fn", "(w, t, rng)", "a parameter named `key`"),
    ),
    WrongCall(
        *("task_map-string-result", lambda: each(lambda w, t: {"name": "a"})),
        *(TypeError, "fn's result", "'a' at the leaf", "arrays"),
    ),
    WrongCall(
        *("task_map-integer-key", lambda: each(key=5)),
        *(TypeError, "key", "5", "jax.random.key(0)"),
    ),
    WrongCall(
        *("task_map-mesh-number", lambda: each(mesh=4)),
        *(TypeError, "mesh", "4", MESH),
    ),
    WrongCall(
        *("task_map-chunk_size-string", lambda: each(chunk_size="all")),
        *(TypeError, "chunk_size", "'all'", "leave it out"),
    ),
    WrongCall(
        *("task_map-tasks-objects", lambda: each(tasks=[object()])),
        *(TypeError, "tasks", "an object at the leaf", "stacked"),
    ),
    WrongCall(
        *("Task-query-none", lambda: adapt(TASK._replace(query=None))),
        *(TypeError, "query", "None", PAIR),
    ),
    WrongCall(
        *("Task-support-array", lambda: adapt(TASK._replace(support=XY[0]))),
        *(TypeError, "support", "an array of shape (2,)", PAIR),
    ),
    WrongCall(
        *("Task-query-triple", lambda: adapt(TASK._replace(query=(*XY, 0)))),
        *(TypeError, "query", "a tuple", PAIR),
    ),
    WrongCall(
        *("Task-class", lambda: adapt(jmeta.Task)),
        *(TypeError, "task", "the class Task", "Task("),
    ),
]
