"""From a user's task loss, metrics and measures to what runs on the device."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._typing import Key, PyTree
from jmeta.tasks import task_map, task_value_and_grad
from jmeta.train._device import Training, draw

VALIDATION = 2**32 - 1
"""Folded into the key for validation; the steps of training stay below 2**31."""

Metrics = Callable[[PyTree, PyTree], dict[str, jax.Array]]


def make_training(
    task_loss: Callable[..., Any],
    tx: optax.GradientTransformation,
    sample: Callable[[Key], PyTree],
    has_aux: bool,
    metrics: Metrics | None,
    log_every: int,
    skip: bool,
    sizes: dict[str, Any],
) -> Training:
    """The meta-problem, with `chunk_size` and `mesh` in `sizes`."""
    loss_fn = _with_key(task_loss)
    value_and_grad = task_value_and_grad(loss_fn, has_aux=has_aux, **sizes)

    def measure(params, tasks, key):
        value, grads = value_and_grad(params, tasks, key)
        loss, aux = value if has_aux else (value, None)
        return {"loss": loss, **_scalars(metrics, aux, tasks)}, grads

    def only_loss(params, task, key):
        value = loss_fn(params, task, key)
        return value[0] if isinstance(value, tuple) else value

    return Training(
        measure=measure,
        losses=task_map(only_loss, **sizes),
        tx=optax.with_extra_args_support(tx),
        sample=sample,
        log_every=log_every,
        skip=skip,
    )


def make_validation(
    fn: Callable[..., Any],
    sample: Callable[[Key], PyTree],
    metrics: Metrics | None,
    sizes: dict[str, Any],
) -> Callable[[PyTree, Key], dict[str, jax.Array]]:
    """`(params, key) -> {name: mean}` over tasks that depend on the key alone."""
    measure = task_map(_with_key(fn), **sizes)

    def validate(params, key):
        tasks, task_key = draw(sample, VALIDATION, key)
        value = measure(params, tasks, task_key)
        value, aux = value if isinstance(value, tuple) else (value, None)
        if jnp.ndim(value) != 1:
            raise ValueError(
                "The function in `validate` must give a scalar for a task, or `(scalar,"
                f" aux)`; got an array of shape {value.shape[1:]}."
            )
        found = {} if aux is None else _scalars(metrics, aux, tasks)
        found = {"loss": value.mean(), **found}
        return {f"validation_{name}": mean for name, mean in found.items()}

    return validate


def place(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Put a copy on each device of a mesh; without one say that all stays.

    What the user put on devices takes with it what was put nowhere.
    """
    if mesh is None:
        put = [x.sharding for x in jax.tree.leaves(tree) if x.committed]
        home = _copies(put[0]) if put else None
        at = lambda x: home if home and not x.committed else x.sharding
        return jax.tree.map(lambda x: jax.device_put(x, at(x)), tree)
    axes = mesh.axis_names
    mesh = Mesh(mesh.devices, axes, axis_types=(AxisType.Auto,) * len(axes))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _copies(sharding):
    """A copy on each device of a sharding."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


def _with_key(fn):
    """Call a function of a task with the key if it takes one."""
    try:
        inspect.signature(fn).bind(None, None, None)
    except TypeError:
        return lambda params, task, key: fn(params, task)
    return fn


def _scalars(metrics, aux, tasks):
    """The metrics; refuse what cannot be averaged and written down."""
    found = {} if metrics is None else metrics(aux, tasks)
    if not isinstance(found, dict):
        raise TypeError(
            "`metrics(aux, tasks)` must give a dict of scalars by name; got a"
            f" {type(found).__name__}."
        )
    for name, value in found.items():
        ours = name in ("step", "loss", "rate", "skipped", "first_skipped")
        if ours or name.startswith("validation_"):
            raise ValueError(f"A metric cannot be named {name!r}, which `fit` writes.")
        if jnp.shape(value):
            raise ValueError(
                f"Metric {name!r} must be a scalar; got an array of shape"
                f" {jnp.shape(value)}. Reduce it, for example with `.mean()`."
            )
    return found
