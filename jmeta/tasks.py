"""Batches of tasks: the mean meta-loss, its gradient, and evaluation."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._typing import Key, PyTree


class Task(NamedTuple):
    """A task, or a batch of tasks with a leading axis on every leaf.

    Attributes:
        support: `(x, y)` to adapt to.
        query: `(x, y)` to judge the adapted parameters on.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.ones((10, 1)), jnp.ones((10, 1))
        >>> Task(support=(x, y), query=(x, y)).support[0].shape
        (10, 1)
    """

    support: tuple[PyTree, PyTree]
    query: tuple[PyTree, PyTree]


def task_value_and_grad(
    task_loss: Callable[..., Any],
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, PyTree]]:
    """Mean of a meta-loss over tasks, and its gradient, in the memory of a chunk.

    The gradient is taken chunk by chunk and added up, so memory is that of
    `chunk_size` tasks and not of all of them. Tasks that do not fill a chunk or a
    device are filled up with copies that count for nothing; the result does not depend
    on chunks or devices.

    Args:
        task_loss: `(meta_params, task) -> loss` or `(loss, aux)`; with a key,
            `(meta_params, task, key)`. As `jmeta.algorithms` make it.
        chunk_size: Tasks at a time, by `vmap`; 1 takes them one after another without
            it. Default all.
        mesh: Devices to share the tasks out to, over all its axes; each takes chunks of
            `chunk_size`, and one sum at the end goes over the devices.
        has_aux: Also return what `task_loss` gives beside the loss.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives `(loss, grads)`, or
        `((loss, aux), grads)` with aux stacked along the tasks. `tasks` is a pytree
        with a leading axis `B` on every leaf; task i gets
        `jax.random.fold_in(key, i)`. Jit it, or the function around it.

    Raises:
        ValueError: Leaves of `tasks` that differ in `B`; a `chunk_size` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> def task_loss(w, task):
        ...     return (w - task) ** 2
        >>> tasks = jnp.array([1.0, 2.0, 6.0])
        >>> loss, grad = task_value_and_grad(task_loss, chunk_size=2)(0.0, tasks)
        >>> round(float(loss), 4), float(grad)
        (13.6667, -6.0)
    """

    def weighted(meta_params, tasks, keys, weights):
        """The weighted sum of a chunk's losses."""
        results = _each(task_loss, meta_params, tasks, keys)
        is_pair = isinstance(results, tuple)
        if has_aux and not (is_pair and len(results) == 2):
            raise ValueError(
                "With `has_aux=True` the task loss must give `(loss, aux)`; got"
                f" {type(results).__name__}."
            )
        losses, *rest = results if is_pair else (results,)
        if losses.shape != weights.shape:
            raise ValueError(
                "The task loss must be a scalar; got an array of shape"
                f" {losses.shape[1:]}. Reduce it, for example with `.mean()`."
            )
        return jnp.sum(weights * losses), rest[0] if has_aux else None

    def chunk(meta_params, tasks, keys, weights):
        grad_fn = jax.value_and_grad(weighted, has_aux=True)
        (loss, aux), grads = grad_fn(meta_params, tasks, keys, weights)
        return (loss, grads), aux

    def value_and_grad(meta_params: PyTree, tasks: PyTree, key: Key | None = None):
        run = _Chunks(chunk_size, mesh)
        (loss, grads), aux = run(chunk, meta_params, tasks, key)
        return ((loss, aux) if has_aux else loss), grads

    return value_and_grad


def task_map(
    fn: Callable[..., Any],
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., PyTree]:
    """A function of each task, in chunks and on every device: for evaluation.

    Args:
        fn: `(meta_params, task) -> result`, a pytree; with a key, `(meta_params, task,
            key)`.
        chunk_size: As in `task_value_and_grad`, and so is `mesh`.
        mesh: See `chunk_size`.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives the results stacked along
        the tasks.

    Raises:
        ValueError: Leaves of `tasks` that differ in `B`; a `chunk_size` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> squares = task_map(lambda w, task: (w - task) ** 2, chunk_size=2)
        >>> squares(0.0, jnp.array([1.0, 2.0, 6.0])).tolist()
        [1.0, 4.0, 36.0]
    """

    def chunk(meta_params, tasks, keys, weights):
        del weights
        return None, _each(fn, meta_params, tasks, keys)

    def mapped(meta_params: PyTree, tasks: PyTree, key: Key | None = None) -> PyTree:
        return _Chunks(chunk_size, mesh)(chunk, meta_params, tasks, key)[1]

    return mapped


class _Chunks(NamedTuple):
    """Tasks in chunks of equal size, on devices with equal numbers of chunks."""

    chunk_size: int | None
    mesh: Mesh | None

    def __call__(self, chunk, meta_params, tasks, key):
        """Sum the first of what `chunk` gives over chunks, stack the second."""
        run: Callable[..., Any] = functools.partial(self._run, chunk)
        explicit = jax.sharding.get_abstract_mesh().explicit_axes
        if self.mesh is not None and explicit:
            # under `jax.set_mesh` of axes that are part of an array's type
            auto = jax.sharding.auto_axes(axes=explicit, out_sharding=PartitionSpec())
            run = auto(run)
        return run(meta_params, tasks, key)

    def _run(self, chunk, meta_params, tasks, key):
        count = _count(tasks)
        tasks = jax.tree.map(jnp.asarray, tasks)
        devices = 1 if self.mesh is None else self.mesh.size
        chunks, size = self._split(math.ceil(count / devices))
        total = devices * chunks * size
        index = jnp.arange(total)
        weights = jnp.where(index < count, 1 / count, 0.0)
        if total > count:
            # copies of tasks, so that they bring no NaN that is not there
            tasks = jax.tree.map(lambda x: x[index % count], tasks)
        keys = None
        if key is not None:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

        run = functools.partial(_run, chunk, chunks, size)
        if self.mesh is not None:
            run = _on_devices(run, self.mesh)
        summed, stacked = run(meta_params, tasks, keys, weights)
        return summed, jax.tree.map(lambda x: x[:count], stacked)

    def _split(self, count: int) -> tuple[int, int]:
        """The least number of chunks, of as equal a size as can be."""
        if self.chunk_size is None:
            return 1, count
        if self.chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1; got {self.chunk_size}.")
        chunks = math.ceil(count / self.chunk_size)
        return chunks, math.ceil(count / chunks)


def _count(tasks):
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(tasks)}
    if len(counts) != 1 or counts == {()} or counts == {(0,)}:
        raise ValueError(
            "`tasks` must have the same leading length, one or more tasks, on every"
            f" leaf; got {sorted(counts)}. A sampler of one task gives many by"
            " `jmeta.data.batch`."
        )
    return counts.pop()[0]


def _run(chunk, chunks, size, meta_params, tasks, keys, weights):
    """Go through the chunks that one device has."""
    if chunks == 1:
        return chunk(meta_params, tasks, keys, weights)
    parts = jax.tree.map(
        lambda x: x.reshape(chunks, size, *x.shape[1:]), (tasks, keys, weights)
    )
    first = jax.tree.map(lambda x: x[0], parts)
    shape, _ = jax.eval_shape(chunk, meta_params, *first)

    def add(total, part):
        summed, stacked = chunk(meta_params, *part)
        return jax.tree.map(jnp.add, total, summed), stacked

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    summed, stacked = jax.lax.scan(add, zeros, parts)
    return summed, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)


def _on_devices(run, mesh):
    axes = mesh.axis_names
    # `jax.make_mesh` makes axes that are part of an array's type; these need not be
    mesh = Mesh(mesh.devices, axes, axis_types=(AxisType.Auto,) * len(axes))

    def local(*args):
        summed, stacked = run(*args)
        return jax.tree.map(lambda x: jax.lax.psum(x, axes), summed), stacked

    split = PartitionSpec(axes)
    # without the check an inner gradient stays the device's own: with it, JAX would add
    # up the gradients of all devices inside every inner step
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), split, split, split),
        out_specs=(PartitionSpec(), split),
        check_vma=False,
    )

    def run_split(meta_params, *per_task):
        # jax 0.12 fails to split what lies on a mesh whose axes are part of its type
        sharding = NamedSharding(mesh, split)
        per_task = jax.lax.with_sharding_constraint(per_task, sharding)
        return mapped(meta_params, *per_task)

    return run_split


def _each(fn, meta_params, tasks, keys):
    """Call `fn` for each task of a chunk; a single one is not batched."""
    args = (tasks,) if keys is None else (tasks, keys)
    if jax.tree.leaves(tasks)[0].shape[0] == 1:
        result = fn(meta_params, *jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], result)
    return jax.vmap(functools.partial(fn, meta_params))(*args)
