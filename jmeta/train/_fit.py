"""Meta-training: the outer loop, from the first step to the last."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jmeta._core.typing import Key, Params, PyTree
from jmeta.train import _arguments
from jmeta.train._arguments import Validation
from jmeta.train._checkpoints import Checkpoints
from jmeta.train._device import draw_tasks, run_settings
from jmeta.train._files import check_space, open_directory
from jmeta.train._interrupt import Interrupt
from jmeta.train._lock import Lock
from jmeta.train._log import Log, Record
from jmeta.train._loop import HostLoop
from jmeta.train._problem import make_training, make_validation, replicate


class Fitted(NamedTuple):
    """What meta-training gives.

    Attributes:
        params: The meta-parameters after the last step.
        opt_state: The state of the outer transform.
        step: How many steps were taken, including those of earlier calls.
        history: A dict for each log and validation, as in `metrics.jsonl`: `step`,
            `loss`, the metrics, `skipped` so far, `rate` in steps per second,
            `validation_loss`. A number that is not finite is None.
        skipped: How many steps were refused because they were not finite.
        first_skipped: The first refused step and what was not finite in it, such as
            `(37, "`gradient['w']`")`; None if no step was refused.
        best_params: The parameters with the lowest validation loss; None without
            `validate`.
        best_step: The number of steps taken until `best_params`.
    """

    params: PyTree
    opt_state: PyTree
    step: int
    history: list[Record]
    skipped: int = 0
    first_skipped: tuple[int, str] | None = None
    best_params: PyTree = None
    best_step: int | None = None


def fit(
    task_loss: Callable[..., Any],
    meta_params: Params,
    tx: optax.GradientTransformation,
    sample: Callable[[Key], PyTree],
    steps: int,
    *,
    key: Key,
    has_aux: bool = False,
    metrics: Callable[[PyTree, PyTree], dict[str, jax.Array]] | None = None,
    validate: Validation | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    directory: str | Path | None = None,
    save_every: int = 1000,
    keep: int = 3,
    log_every: int = 100,
    nonfinite: Literal["raise", "skip"] = "raise",
    progress: bool | None = None,
    tensorboard: bool = False,
    on_record: Callable[[Record], Any] | None = None,
) -> Fitted:
    """Meta-train: update on the mean loss of new tasks at each step.

    Step t makes two keys, `sample_key, task_key = split(fold_in(key, t))`, takes the
    gradient on `sample(sample_key)` and updates by `tx`. One compiled program runs many
    steps on the device.

    With a `directory`, the same call goes on where an earlier one was stopped by
    Ctrl-C, an error or a kill. It ends with the same numbers, bit for bit, as a run
    that was never stopped. Values within `tx` and `task_loss`, such as rates, are not
    recorded: if they differ, the new ones hold from there on.

    A step whose gradient, loss or update is not finite is refused on the device. It
    changes neither the parameters nor the state of `tx`.

    Args:
        task_loss: `(meta_params, task[, key=]) -> loss`, or `(loss, aux)`, such as the
            functions that `jmeta.algorithms` make. It gets a key if and only if it has
            a parameter named `key`.
        meta_params: Initial meta-parameters, a pytree of float arrays. They are copied.
        tx: The outer transform, of optax or `jmeta.optim`.
        sample: `key -> tasks` with a leading axis `B` on every leaf, such as
            `jmeta.data.batch` makes. It takes one argument and is compiled.
        steps: The number of steps in all, including those of an earlier call.
        key: PRNG key. The same key gives the same run.
        has_aux: Whether `task_loss` gives `(loss, aux)`.
        metrics: `(aux, tasks) -> {name: scalar}`, with `aux` stacked along the tasks.
            The scalars are logged with the loss. Needs `has_aux`.
        validate: How to judge the parameters, and how often.
        chunk_size: How many tasks are computed at a time; None computes all at once.
        mesh: Devices that share the tasks, over all axes of the mesh. None leaves
            everything on the devices where it is.
        directory: Where checkpoints, `metrics.jsonl` and `settings.json` are kept. It
            is made if it is absent. One call at a time may train there. Damaged
            checkpoints are moved to its folder `damaged`. None keeps nothing.
        save_every: Steps between checkpoints.
        keep: How many of the last checkpoints to keep. The one with the lowest
            validation loss is kept too.
        log_every: Steps between records of the rate in steps per second, and of the
            mean loss and metrics since the last record.
        nonfinite: `"raise"` stops before a step that is not finite. `"skip"` goes on
            without its update and counts it.
        progress: Whether to show a bar. None shows one where tqdm and a terminal are.
        tensorboard: Whether to write the records for TensorBoard too, into the
            `directory`.
        on_record: Called with each new record, a dict as in the history. It serves
            other loggers, such as `on_record=wandb.log`.

    Returns:
        `Fitted`: the parameters, the transform's state, the history and more.

    Raises:
        FloatingPointError: A step is not finite, with `nonfinite="raise"`. The message
            names the step and the leaf.
        TypeError: An argument is of the wrong kind, such as meta-parameters that are
            not floats.
        KeyboardInterrupt: Ctrl-C was pressed. The steps in progress are finished and
            saved first.
        OSError: The `directory` cannot be read or written, or the disk is full. The
            same call goes on from the last checkpoint.
        RuntimeError: Another call trains in the `directory`.
        ValueError: An argument is out of range; or the `directory` holds a run with
            another key, or with parameters, optimizer state or tasks of other shapes.
        ImportError: A package of one of jmeta's extras is missing.

    Example:
        >>> import jax, optax, jmeta
        >>> def task_loss(w, task):
        ...     return (w - task) ** 2
        >>> fitted = jmeta.fit(
        ...     task_loss,
        ...     0.0,
        ...     optax.sgd(0.1),
        ...     lambda key: 3.0 + jax.random.normal(key, (4,)),
        ...     200,
        ...     key=jax.random.key(0),
        ... )
        >>> round(float(fitted.params)), [record["step"] for record in fitted.history]
        (3, [100, 200])
    """
    _arguments.check(
        *(task_loss, meta_params, tx, sample, steps),
        key=key,
        has_aux=has_aux,
        metrics=metrics,
        validation=validate,
        directory=directory,
        nonfinite=nonfinite,
        progress=progress,
        tensorboard=tensorboard,
        on_record=on_record,
        **{"save_every": save_every, "keep": keep, "log_every": log_every},
    )
    sizes = {"chunk_size": chunk_size, "mesh": mesh}
    training = make_training(
        task_loss, tx, sample, has_aux, metrics, log_every, nonfinite == "skip", sizes
    )
    state = training.begin(meta_params, key)
    key, state = replicate((key, state), mesh)
    measure = None
    if validate is not None:
        measure = jax.jit(make_validation(validate.fn, validate.sample, metrics, sizes))

    with contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        checkpoints = best = None
        if directory is not None:
            directory = open_directory(directory)
            stack.enter_context(Lock(directory))
            tasks, _ = jax.eval_shape(lambda: draw_tasks(sample, 0, key))
            checkpoints = Checkpoints(directory, keep)
            stack.callback(checkpoints.close)
            checkpoints.store_or_compare_settings(run_settings(state, tasks, key))
            state, best = checkpoints.latest(state) or (state, None)
        begin = int(state.step)
        if begin > steps:
            raise ValueError(
                f"`directory` {directory} holds a run of {begin} steps, more than"
                f" `steps`={steps}. Pass more, or another directory."
            )
        if directory is not None and begin < steps:
            check_space(directory, sum(x.nbytes for x in jax.tree.leaves(state)))
        log = Log(directory, begin, steps, progress, tensorboard, on_record)
        stack.callback(log.close)
        loop = HostLoop(
            *(training, measure, key, steps, save_every),
            validate.every if validate is not None else steps,
            *(interrupt, log, checkpoints),
        )
        state, best = loop.run(state, best)

    return Fitted(
        params=state.params,
        opt_state=state.opt_state,
        step=int(state.step),
        history=log.records,
        skipped=int(state.skipped.count),
        first_skipped=loop.first_skipped(state),
        best_params=None if best is None else jax.tree.map(jnp.asarray, best.params),
        best_step=None if best is None else best.step,
    )
