"""Batches of tasks: the mean meta-loss, its gradient, and evaluation."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._core import validate
from jmeta._core.key_argument import with_optional_key
from jmeta._core.typing import Key, PyTree


class Task(NamedTuple):
    """A task, or a batch of tasks with a leading axis on every leaf.

    Attributes:
        support: Inputs and targets `(x, y)` to adapt to.
        query: Inputs and targets `(x, y)` to judge the adapted parameters on.

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
    """Mean of a meta-loss over tasks, and its gradient, in the memory of one chunk.

    The gradients of the chunks are computed one after another and added up. Memory is
    that of `chunk_size` tasks, not of all of them. An incomplete chunk is filled up
    with copies of tasks, whose losses have weight zero. The result does not depend on
    chunks or devices.

    Args:
        task_loss: `(meta_params, task[, key=]) -> loss` or `(loss, aux)`, such as the
            functions that `jmeta.algorithms` make. It gets a key if and only if it has
            a parameter named `key`.
        chunk_size: How many tasks `vmap` computes at a time; 1 computes one after
            another without `vmap`. None computes all at once.
        mesh: Devices that share the tasks, over all axes of the mesh. Each goes through
            chunks of `chunk_size`, and one sum over the devices comes at the end. None
            leaves everything on the devices where it is.
        has_aux: Whether `task_loss` gives `(loss, aux)`. The result then has aux too.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives `(loss, grads)`, or
        `((loss, aux), grads)` with aux stacked along the tasks. `tasks` is a pytree
        with a leading axis `B` on every leaf; task i gets
        `jax.random.fold_in(key, i)`. Jit it, or the function around it.

    Raises:
        TypeError: An argument is of the wrong kind; or `task_loss` takes other
            arguments, gives no loss, or gives a pair without `has_aux`.
        ValueError: Leaves of `tasks` differ in `B`; `chunk_size` is below 1; or the
            loss is no scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> def task_loss(w, task):
        ...     return (w - task) ** 2
        >>> tasks = jnp.array([1.0, 2.0, 6.0])
        >>> loss, grad = task_value_and_grad(task_loss, chunk_size=2)(0.0, tasks)
        >>> round(float(loss), 4), float(grad)
        (13.6667, -6.0)
    """
    validate.function("task_loss", task_loss, use=_USE_TASK_FUNCTION)
    validate.flag("has_aux", has_aux)
    chunks = _Chunks.checked(chunk_size, mesh)
    call = with_optional_key("task_loss", task_loss)

    def loss_and_aux(meta_params, task, key):
        result = call(meta_params, task, key=key)
        loss, aux = _split_aux(result) if has_aux else (result, None)
        _check_loss(loss)
        return loss, aux

    def weighted_loss(meta_params, tasks, keys, weights):
        """The weighted sum of a chunk's losses, and aux."""
        losses, aux = _map_chunk("task_loss", loss_and_aux, meta_params, tasks, keys)
        return jnp.sum(weights * losses), aux

    def chunk(meta_params, tasks, keys, weights):
        grad_fn = jax.value_and_grad(weighted_loss, has_aux=True)
        (loss, aux), grads = grad_fn(meta_params, tasks, keys, weights)
        return (loss, grads), aux

    def value_and_grad(meta_params: PyTree, tasks: PyTree, key: Key | None = None):
        validate.floats("meta_params", meta_params, use=_USE_CAPTURE)
        (loss, grads), aux = chunks(chunk, meta_params, tasks, key)
        return ((loss, aux) if has_aux else loss), grads

    return value_and_grad


def task_map(
    fn: Callable[..., Any],
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., PyTree]:
    """Apply a function to each task, in chunks and over devices, for evaluation.

    Args:
        fn: `(meta_params, task[, key=]) -> result`, a pytree of arrays. It gets a key
            if and only if it has a parameter named `key`.
        chunk_size: How many tasks `vmap` computes at a time; 1 computes one after
            another without `vmap`. None computes all at once.
        mesh: Devices that share the tasks, over all axes of the mesh. None leaves
            everything on the devices where it is.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives the results stacked along
        the tasks.

    Raises:
        TypeError: An argument is of the wrong kind, or `fn` takes other arguments.
        ValueError: Leaves of `tasks` differ in `B`, or `chunk_size` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> squares = task_map(lambda w, task: (w - task) ** 2, chunk_size=2)
        >>> squares(0.0, jnp.array([1.0, 2.0, 6.0])).tolist()
        [1.0, 4.0, 36.0]
    """
    validate.function("fn", fn, use=_USE_TASK_FUNCTION)
    chunks = _Chunks.checked(chunk_size, mesh)
    call = with_optional_key("fn", fn)

    def result(meta_params, task, key):
        return call(meta_params, task, key=key)

    def chunk(meta_params, tasks, keys, weights):
        del weights
        return None, _map_chunk("fn", result, meta_params, tasks, keys)

    def mapped(meta_params: PyTree, tasks: PyTree, key: Key | None = None) -> PyTree:
        return chunks(chunk, meta_params, tasks, key)[1]

    return mapped


class _Chunks(NamedTuple):
    """Tasks in chunks of equal size, on devices with equal numbers of chunks."""

    chunk_size: int | None
    mesh: Mesh | None

    @classmethod
    def checked(cls, chunk_size, mesh):
        """Check the two arguments, and make the chunks from them."""
        if chunk_size is not None:
            use = "Pass tasks at a time, or leave it out for all at once."
            validate.count("chunk_size", chunk_size, minimum=1, use=use)
        if mesh is not None:
            use = "Make one by `jax.make_mesh((4,), ('tasks',))`, or leave it out."
            validate.instance("mesh", mesh, Mesh, "a `jax.sharding.Mesh`", use=use)
        return cls(chunk_size, mesh)

    def __call__(self, chunk, meta_params, tasks, key):
        """Call `chunk` for each chunk; sum its first result, stack its second."""
        map_chunks: Callable[..., Any] = functools.partial(self._map, chunk)
        explicit = jax.sharding.get_abstract_mesh().explicit_axes
        if self.mesh is not None and explicit:
            # Under `jax.set_mesh` with explicit axes, shardings are part of an array's
            # type. `_on_devices` needs axes where they are not.
            auto = jax.sharding.auto_axes(axes=explicit, out_sharding=PartitionSpec())
            map_chunks = auto(map_chunks)
        return map_chunks(meta_params, tasks, key)

    def _map(self, chunk, meta_params, tasks, key):
        if key is not None:
            validate.key("key", key)
        count = _count(tasks)
        tasks = jax.tree.map(jnp.asarray, tasks)
        devices = 1 if self.mesh is None else self.mesh.size
        chunks, size = self._split(math.ceil(count / devices))
        total = devices * chunks * size
        index = jnp.arange(total)
        weights = jnp.where(index < count, 1 / count, 0.0)
        if total > count:
            # Zeros could make NaN where no task does; copies of tasks cannot.
            tasks = jax.tree.map(lambda x: x[index % count], tasks)
        keys = None
        if key is not None:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

        scan = functools.partial(_scan_chunks, chunk, chunks, size)
        if self.mesh is not None:
            scan = _on_devices(scan, self.mesh)
        summed, stacked = scan(meta_params, tasks, keys, weights)
        return summed, jax.tree.map(lambda x: x[:count], stacked)

    def _split(self, count: int) -> tuple[int, int]:
        """The least number of chunks for `count` tasks, and their equal size."""
        if self.chunk_size is None:
            return 1, count
        chunks = math.ceil(count / self.chunk_size)
        return chunks, math.ceil(count / chunks)


def _count(tasks):
    if jax.tree.leaves(tasks):
        validate.arrays("tasks", tasks, use=_USE_BATCH)
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(tasks)}
    if len(counts) != 1 or counts == {()} or counts == {(0,)}:
        raise ValueError(
            "`tasks` must have the same leading length, one or more tasks, on every"
            f" leaf; got {sorted(counts)}. {_USE_BATCH}"
        )
    return counts.pop()[0]


def _scan_chunks(chunk, chunks, size, meta_params, tasks, keys, weights):
    """Go through the chunks of one device."""
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
    # not -1: an axis may have no entries, such as the losses of no steps
    merge = lambda x: x.reshape(chunks * size, *x.shape[2:])
    return summed, jax.tree.map(merge, stacked)


def _on_devices(scan, mesh):
    """Run `scan` on each device's share of the tasks, and sum over the devices."""
    axes = mesh.axis_names
    # `jax.make_mesh` makes explicit axes, whose shardings are part of an array's type;
    # here they are not needed.
    mesh = Mesh(mesh.devices, axes, axis_types=(AxisType.Auto,) * len(axes))

    def local(*args):
        summed, stacked = scan(*args)
        return jax.tree.map(lambda x: jax.lax.psum(x, axes), summed), stacked

    split = PartitionSpec(axes)
    # With `check_vma`, JAX would add up the gradients of all devices inside every inner
    # step. Without it, an inner gradient stays that of its own device.
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), split, split, split),
        out_specs=(PartitionSpec(), split),
        check_vma=False,
    )

    def constrain_and_map(meta_params, *per_task):
        # jax 0.12 fails to split an array that lies on a mesh with explicit axes.
        sharding = NamedSharding(mesh, split)
        per_task = jax.lax.with_sharding_constraint(per_task, sharding)
        return mapped(meta_params, *per_task)

    return constrain_and_map


def _map_chunk(name, fn, meta_params, tasks, keys):
    """Call `fn` for each task of a chunk, without `vmap` if there is only one."""

    def call(task, key):
        result = fn(meta_params, task, key)
        if jax.tree.leaves(result):
            validate.arrays(f"{name}'s result", result)
        return jax.tree.map(jnp.asarray, result)

    if jax.tree.leaves(tasks)[0].shape[0] == 1:
        result = call(*jax.tree.map(lambda x: x[0], (tasks, keys)))
        return jax.tree.map(lambda x: x[None], result)
    return jax.vmap(call)(tasks, keys)


def _split_aux(result):
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(
            "With `has_aux=True` `task_loss` must give `(loss, aux)`; got"
            f" {_described(result)}. Leave `has_aux` out for a loss alone."
        )
    return result


def _check_loss(loss):
    """Refuse what `jax.grad` would refuse, in a message that names `task_loss`."""
    if isinstance(loss, tuple | list | dict) or not hasattr(loss, "shape"):
        raise TypeError(
            f"`task_loss` must give a scalar loss, a JAX array; got {_described(loss)}."
            " For a pair `(loss, aux)` pass `has_aux=True`."
        )
    if loss.shape:
        raise ValueError(
            "`task_loss` must give a loss that is a scalar; got an array of shape"
            f" {loss.shape}. Reduce it, for example with `.mean()`."
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            f"`task_loss` must give a float; got dtype {loss.dtype}, which has no"
            " gradient. Pass a function of which there is one."
        )


def _described(result):
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return validate.kind(result)


_USE_TASK_FUNCTION = "Pass one of `(meta_params, task)`, as `jmeta.algorithms` make it."
_USE_CAPTURE = "Let `task_loss` capture what is not trained."
_USE_BATCH = "A sampler of one task gives many, stacked, by `jmeta.data.batch`."
