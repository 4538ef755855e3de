"""Batches of tasks: the mean meta-loss, its gradient, and evaluation."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jmeta._core import validate
from jmeta._core.keys import with_optional_key
from jmeta._core.typing import Key, PyTree


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
        task_loss: `(meta_params, task[, key=]) -> loss` or `(loss, aux)`; as
            `jmeta.algorithms` make it. It gets a key if and only if it has a parameter
            named `key`.
        chunk_size: Tasks at a time, by `vmap`; 1 takes them one after another without
            it. Default all.
        mesh: Devices to share the tasks out to, over all its axes; each takes chunks of
            `chunk_size`, and one sum at the end goes over the devices.
        has_aux: `task_loss` gives `(loss, aux)`; aux is returned too.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives `(loss, grads)`, or
        `((loss, aux), grads)` with aux stacked along the tasks. `tasks` is a pytree
        with a leading axis `B` on every leaf; task i gets
        `jax.random.fold_in(key, i)`. Jit it, or the function around it.

    Raises:
        TypeError: An argument of the wrong kind; a `task_loss` that takes other
            arguments, or gives no loss, or a pair without `has_aux`.
        ValueError: Leaves of `tasks` that differ in `B`; a `chunk_size` below 1; a loss
            that is no scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> def task_loss(w, task):
        ...     return (w - task) ** 2
        >>> tasks = jnp.array([1.0, 2.0, 6.0])
        >>> loss, grad = task_value_and_grad(task_loss, chunk_size=2)(0.0, tasks)
        >>> round(float(loss), 4), float(grad)
        (13.6667, -6.0)
    """
    validate.function("task_loss", task_loss, use=_OF_A_TASK)
    validate.flag("has_aux", has_aux)
    chunks = _Chunks.checked(chunk_size, mesh)
    call = with_optional_key("task_loss", task_loss)

    def loss_and_aux(meta_params, task, key):
        result = call(meta_params, task, key=key)
        loss, aux = _split_aux(result) if has_aux else (result, None)
        _check_loss(loss)
        return loss, aux

    def weighted(meta_params, tasks, keys, weights):
        """The weighted sum of a chunk's losses."""
        losses, aux = _each("task_loss", loss_and_aux, meta_params, tasks, keys)
        return jnp.sum(weights * losses), aux

    def chunk(meta_params, tasks, keys, weights):
        grad_fn = jax.value_and_grad(weighted, has_aux=True)
        (loss, aux), grads = grad_fn(meta_params, tasks, keys, weights)
        return (loss, grads), aux

    def value_and_grad(meta_params: PyTree, tasks: PyTree, key: Key | None = None):
        validate.floats("meta_params", meta_params, use=_NOT_TRAINED)
        (loss, grads), aux = chunks(chunk, meta_params, tasks, key)
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
        fn: `(meta_params, task[, key=]) -> result`, a pytree of arrays. It gets a key
            if and only if it has a parameter named `key`.
        chunk_size: As in `task_value_and_grad`, and so is `mesh`.
        mesh: See `chunk_size`.

    Returns:
        A function `(meta_params, tasks, key=None)` that gives the results stacked along
        the tasks.

    Raises:
        TypeError: An argument of the wrong kind; an `fn` that takes other arguments.
        ValueError: Leaves of `tasks` that differ in `B`; a `chunk_size` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> squares = task_map(lambda w, task: (w - task) ** 2, chunk_size=2)
        >>> squares(0.0, jnp.array([1.0, 2.0, 6.0])).tolist()
        [1.0, 4.0, 36.0]
    """
    validate.function("fn", fn, use=_OF_A_TASK)
    chunks = _Chunks.checked(chunk_size, mesh)
    call = with_optional_key("fn", fn)

    def result(meta_params, task, key):
        return call(meta_params, task, key=key)

    def chunk(meta_params, tasks, keys, weights):
        del weights
        return None, _each("fn", result, meta_params, tasks, keys)

    def mapped(meta_params: PyTree, tasks: PyTree, key: Key | None = None) -> PyTree:
        return chunks(chunk, meta_params, tasks, key)[1]

    return mapped


class _Chunks(NamedTuple):
    """Tasks in chunks of equal size, on devices with equal numbers of chunks."""

    chunk_size: int | None
    mesh: Mesh | None

    @classmethod
    def checked(cls, chunk_size, mesh):
        """Refuse what is neither a count nor a mesh."""
        if chunk_size is not None:
            use = "Pass tasks at a time, or leave it out for all at once."
            validate.count("chunk_size", chunk_size, minimum=1, use=use)
        if mesh is not None:
            use = "Make one by `jax.make_mesh((4,), ('tasks',))`, or leave it out."
            validate.instance("mesh", mesh, Mesh, "a `jax.sharding.Mesh`", use=use)
        return cls(chunk_size, mesh)

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
        chunks = math.ceil(count / self.chunk_size)
        return chunks, math.ceil(count / chunks)


def _count(tasks):
    if jax.tree.leaves(tasks):
        validate.arrays("tasks", tasks, use=_STACKED)
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(tasks)}
    if len(counts) != 1 or counts == {()} or counts == {(0,)}:
        raise ValueError(
            "`tasks` must have the same leading length, one or more tasks, on every"
            f" leaf; got {sorted(counts)}. {_STACKED}"
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


def _each(name, fn, meta_params, tasks, keys):
    """Call `fn` for each task of a chunk; a single one is not batched."""

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
            f" {_given(result)}. Leave `has_aux` out for a loss alone."
        )
    return result


def _check_loss(loss):
    """Refuse what `jax.grad` would, by our name for it."""
    if isinstance(loss, tuple | list | dict) or not hasattr(loss, "shape"):
        raise TypeError(
            f"`task_loss` must give a scalar loss, a JAX array; got {_given(loss)}."
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


def _given(result):
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return validate.kind(result)


_OF_A_TASK = "Pass one of `(meta_params, task)`, as `jmeta.algorithms` make it."
_NOT_TRAINED = "Let `task_loss` capture what is not trained."
_STACKED = "A sampler of one task gives many, stacked, by `jmeta.data.batch`."
