"""Turn a user's task loss, metrics and validation into what runs on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._core.key_argument import with_optional_key
from jmeta._core.typing import Key, PyTree
from jmeta._core.validate import arrays, kind
from jmeta.tasks import task_map, task_value_and_grad
from jmeta.train._device import MetaTraining, draw_tasks

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
) -> MetaTraining:
    """Make the meta-problem from the arguments of `fit`.

    Args:
        task_loss: `(meta_params, task[, key=]) -> loss` or `(loss, aux)`.
        tx: The outer transform.
        sample: `key -> tasks`, with a leading axis on every leaf.
        has_aux: Whether `task_loss` gives `(loss, aux)`.
        metrics: `(aux, tasks) -> {name: scalar}`, or None.
        log_every: Steps between logs.
        skip: Whether to go on after a step that is not finite.
        sizes: `chunk_size` and `mesh` of `task_value_and_grad`, by name.
    """
    value_and_grad = task_value_and_grad(task_loss, has_aux=has_aux, **sizes)
    call = with_optional_key("task_loss", task_loss)

    def measure(params, tasks, key):
        value, grads = value_and_grad(params, tasks, key)
        loss, aux = value if has_aux else (value, None)
        return {"loss": loss, **_scalars(metrics, aux, tasks)}, grads

    def only_loss(params, task, key):
        value = call(params, task, key=key)
        return value[0] if has_aux else value

    return MetaTraining(
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
    """Make the function that measures parameters on the validation tasks.

    Args:
        fn: `(meta_params, task[, key=]) -> value` or `(value, aux)`.
        sample: `key -> tasks`, with a leading axis on every leaf.
        metrics: `(aux, tasks) -> {name: scalar}`, or None.
        sizes: `chunk_size` and `mesh` of `task_map`, by name.

    Returns:
        `(params, key) -> {name: mean}`. Its tasks depend on the key alone.
    """
    measure = task_map(fn, **sizes)

    def validate(params, key):
        tasks, task_key = draw_tasks(sample, VALIDATION, key)
        value: Any = measure(params, tasks, task_key)
        is_pair = isinstance(value, tuple | list) and len(value) == 2
        value, aux = value if is_pair else (value, None)
        # The tasks are stacked, so a scalar of each is an array `[B]`.
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


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Put a copy of a tree on each device of a mesh.

    Without a mesh, leaves that the user put on devices stay there. The others are
    replicated over the devices of the first of these, or stay where they are if there
    is none.
    """
    if mesh is None:
        chosen = [x.sharding for x in jax.tree.leaves(tree) if x.committed]
        common = _replicated(chosen[0]) if chosen else None
        target = lambda x: common if common and not x.committed else x.sharding
        return jax.tree.map(lambda x: jax.device_put(x, target(x)), tree)
    axes = mesh.axis_names
    mesh = Mesh(mesh.devices, axes, axis_types=(AxisType.Auto,) * len(axes))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _replicated(sharding):
    """The sharding that puts a copy on each device of another sharding."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


def _scalars(metrics, aux, tasks):
    """The metrics by name, checked to be scalars under names of their own."""
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
