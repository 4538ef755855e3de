"""A meta-learning problem as plain data, and its hypergradient by jmeta."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jmeta

Layers = list[dict[str, np.ndarray]]


class Problem(NamedTuple):
    """Adapt `params` to each task by SGD; the mean loss on the queries counts.

    Attributes:
        params: A dict of float32 arrays for each layer, in the order in which a torch
            module lists them, but in JAX's layouts: `[in, out]` and `[H, W, in, out]`.
        support: `(x, y)` with a leading axis of tasks; images as `[N, H, W, C]`.
        query: The same.
        classes: Whether `y` are classes (cross-entropy) or numbers (mean square).
        steps: Inner steps, all on the whole support set.
        lr: Inner learning rate.
        momentum: Inner momentum; None: plain SGD.
        wrt: What the hypergradient is with respect to.
    """

    params: Layers
    support: tuple[np.ndarray, np.ndarray]
    query: tuple[np.ndarray, np.ndarray]
    classes: bool
    steps: int
    lr: float
    momentum: float | None = None
    wrt: tuple[str, ...] = ("params",)


def mlp(seed: int, *sizes: int) -> Layers:
    """Weights of a multi-layer perceptron, He's initialization."""
    rng = np.random.default_rng(seed)
    return [
        {
            "weight": rng.normal(0, np.sqrt(2 / i), (i, o)).astype(np.float32),
            "bias": rng.normal(0, 0.1, o).astype(np.float32),
        }
        for i, o in itertools.pairwise(sizes)
    ]


def mlp_apply(params: Any, x: jax.Array, activation: Any = jax.nn.relu) -> jax.Array:
    """Outputs `[N, out]` for inputs `[N, in]`."""
    *hidden, last = params
    for layer in hidden:
        x = activation(x @ layer["weight"] + layer["bias"][None])
    return x @ last["weight"] + last["bias"][None]


def mean_square(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((outputs - y) ** 2)


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    chosen = jnp.arange(outputs.shape[-1])[None] == y[:, None]
    return -jnp.mean(jnp.sum(jnp.where(chosen, jax.nn.log_softmax(outputs), 0), -1))


def adapt(
    apply_fn: Callable[..., Any],
    problem: Problem,
    adjoint: Any,
    meta: dict[str, Any],
    task: jmeta.Task,
) -> tuple[Any, jax.Array]:
    """Trained parameters for one task, and the loss on its query set."""
    loss_fn = cross_entropy if problem.classes else mean_square
    meta = {**start(problem, ("params", "lr", "momentum")), **meta}
    hyperparams = {k: meta[k] for k in ("lr", "momentum") if k in meta}
    run = jmeta.inner_loop(
        apply_fn,
        meta["params"],
        jmeta.optim.sgd(),
        problem.steps,
        loss_fn=loss_fn,
        batch=task.support,
        hyperparams=hyperparams,
        adjoint=adjoint,
    )
    x, y = task.query
    return run.params, loss_fn(apply_fn(run.params, x), y)


def hypergradient(
    apply_fn: Callable[..., Any],
    problem: Problem,
    adjoint: Any,
    chunk_size: int | None = None,
) -> tuple[Callable[..., Any], Any, jmeta.Task]:
    """The gradient of the mean query loss: a function and its two arguments."""

    def task_loss(meta, task):
        return adapt(apply_fn, problem, adjoint, meta, task)[1]

    value_and_grad = jmeta.task_value_and_grad(task_loss, chunk_size=chunk_size)
    tasks = jmeta.Task(problem.support, problem.query)
    gradient = lambda meta, tasks: value_and_grad(meta, tasks)[1]
    return gradient, start(problem, problem.wrt), tasks


def training(apply_fn: Callable[..., Any], problem: Problem):
    """Training for each task without any derivative: a function and its arguments."""
    train = functools.partial(adapt, apply_fn, problem, jmeta.Unroll())
    tasks = jmeta.Task(problem.support, problem.query)
    all_tasks = lambda meta, tasks: jmeta.task_map(train, chunk_size=1)(meta, tasks)
    return all_tasks, start(problem, problem.wrt), tasks


def start(problem: Problem, names: tuple[str, ...]) -> dict[str, Any]:
    """The values that the hypergradient is taken at."""
    values = {
        "params": problem.params,
        "lr": np.float32(problem.lr),
        "momentum": None if problem.momentum is None else np.float32(problem.momentum),
    }
    return {name: values[name] for name in names if values[name] is not None}
