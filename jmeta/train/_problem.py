"""From a user's task loss, metrics and measures to what runs on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._core.keys import with_optional_key
from jmeta._core.typing import Key, PyTree
from jmeta._core.validate import arrays, kind
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
    value_and_grad = task_value_and_grad(task_loss, has_aux=has_aux, **sizes)
    call = with_optional_key("task_loss", task_loss)

    def measure(params, tasks, key):
        value, grads = value_and_grad(params, tasks, key)
        loss, aux = value if has_aux else (value, None)
        return {"loss": loss, **_scalars(metrics, aux, tasks)}, grads

    def only_loss(params, task, key):
        value = call(params, task, key=key)
        return value[0] if has_aux else value

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
    measure = task_map(fn, **sizes)

    def validate(params, key):
        tasks, task_key = draw(sample, VALIDATION, key)
        value: Any = measure(params, tasks, task_key)
        is_pair = isinstance(value, tuple | list) and len(value) == 2
        value, aux = value if is_pair else (value, None)
        # one for each task
        shape = getattr(value, "shape", None)
        if shape is None or len(shape) != 1:
            got = kind(value) if shape is None else f"an array of shape {shape[1:]}"
            raise ValueError(
                "The function in `validate` must give a scalar for a task, or `(scalar,"
                f" aux)`; got {got}. Reduce it, for example with `.mean()`."
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


def _scalars(metrics, aux, tasks):
    """The metrics; refuse what cannot be averaged and written down."""
    found = {} if metrics is None else metrics(aux, tasks)
    if not isinstance(found, dict):
        raise TypeError(
            "`metrics` must give a dict of scalars by name; got"
            f" {kind(found)}. Return one such as `{{'accuracy': right.mean()}}`."
        )
    for name, value in found.items():
        if not isinstance(name, str):
            raise TypeError(
                "`metrics` must give scalars by names that are strings; got"
                f" {kind(name)}. Return a dict such as `{{'accuracy': right.mean()}}`."
            )
        ours = name in ("step", "loss", "rate", "skipped", "first_skipped")
        if ours or name.startswith("validation_"):
            raise ValueError(f"A metric cannot be named {name!r}, which `fit` writes.")
        arrays(f"metrics[{name!r}]", value)
        if not jax.tree_util.all_leaves([value]):
            raise TypeError(
                f"Metric {name!r} in `metrics` must be a scalar; got {kind(value)}."
                " Give each of its entries a name of its own."
            )
        if jnp.shape(value):
            raise ValueError(
                f"Metric {name!r} must be a scalar; got an array of shape"
                f" {jnp.shape(value)}. Reduce it, for example with `.mean()`."
            )
    return found
