"""Checks of the arguments of `fit`, before it begins."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jmeta._core import validate
from jmeta._core.key_argument import check_call, key_parameter
from jmeta._core.typing import Key, PyTree

_SAMPLE = "Pass a function `key -> tasks`, as `jmeta.data.batch` makes it."
_TASK_LOSS = "Pass one of `(meta_params, task)`, as `jmeta.algorithms` make it."


@dataclasses.dataclass(frozen=True)
class Validation:
    """How `fit` judges the meta-parameters while it trains them.

    `fit` takes the mean of `fn` over validation tasks, which are the same each time: a
    separate key draws them. It records the mean and keeps the parameters with the
    lowest.

    Attributes:
        fn: A task loss, or another measure of which less is better: `(meta_params,
            task[, key=]) -> value`, or `(value, aux)`. The `metrics` of `fit` are
            applied to this `aux` too. It gets a key if and only if it has a parameter
            named `key`.
        sample: `key -> tasks`, with a leading axis on every leaf.
        every: Steps between validations. The last step is always validated.

    Raises:
        TypeError: A field of the wrong kind.
        ValueError: `every` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> task_loss = lambda w, task: (w - task) ** 2
        >>> held_out = Validation(task_loss, lambda key: jnp.arange(3.0), every=50)
        >>> held_out.every
        50
    """

    fn: Callable[..., Any]
    sample: Callable[[Key], PyTree]
    every: int = 1000

    def __post_init__(self) -> None:
        _check_task_function("fn", self.fn)
        _check_sampler("sample", self.sample)
        validate.count("every", self.every, minimum=1, use="It is a number of steps.")


def check(
    task_loss: Any,
    meta_params: Any,
    tx: Any,
    sample: Any,
    steps: Any,
    *,
    key: Any,
    has_aux: Any,
    metrics: Any,
    validation: Any,
    directory: Any,
    nonfinite: Any,
    progress: Any,
    tensorboard: Any,
    on_record: Any,
    **counts: Any,
) -> None:
    """Check the arguments of `fit`.

    `jmeta.tasks` checks the other two, `chunk_size` and `mesh`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or needs another that is missing.
    """
    _check_task_function("task_loss", task_loss)
    use = "Let `task_loss` capture what is not trained."
    validate.floats("meta_params", meta_params, use=use)
    validate.transform("tx", tx)
    _check_sampler("sample", sample)
    validate.count("steps", steps)
    validate.key("key", key)
    for name, count in counts.items():
        validate.count(name, count, minimum=1, use="It is a number of steps or files.")
    validate.one_of("nonfinite", nonfinite, ("raise", "skip"))
    for name, flag in {"has_aux": has_aux, "tensorboard": tensorboard}.items():
        validate.flag(name, flag)
    if progress is not None:
        validate.flag("progress", progress)
    if metrics is not None:
        use = "Pass `(aux, tasks) -> {name: scalar}`."
        validate.function("metrics", metrics, use=use)
        check_call("metrics", metrics, (None, None), {}, "take `(aux, tasks)`")
        if not has_aux:
            raise ValueError(
                "`metrics` reads what `task_loss` gives beside the loss: pass"
                " `has_aux=True` with a task loss that gives `(loss, aux)`."
            )
    if validation is not None:
        use = "Pass `jmeta.Validation(task_loss, sample, every=100)`."
        validate.instance("validate", validation, Validation, "a `Validation`", use=use)
    if on_record is not None:
        validate.takes("on_record", on_record, {}, use="It is called with a record.")
    if tensorboard and directory is None:
        raise ValueError("`tensorboard=True` needs a `directory` to write into.")


def _check_task_function(name, fn):
    validate.function(name, fn, use=_TASK_LOSS)
    has_key = key_parameter(fn, None, None) is not None
    check_call(name, fn, (None, None), {"key": None} if has_key else {})


def _check_sampler(name, sample):
    validate.function(name, sample, use=_SAMPLE)
    check_call(name, sample, (None,), {}, "take a key, its one argument by position")
