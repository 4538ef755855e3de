"""Refuse what `fit` cannot train, before it begins."""

from typing import Any

from jmeta._core import validate
from jmeta._core.keys import check_call, key_parameter

_SAMPLE = "Pass a function `key -> tasks`, as `jmeta.data.batch` makes it."
_TASK_LOSS = "Pass one of `(meta_params, task)`, as `jmeta.algorithms` make it."


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
    **counts: Any,
) -> None:
    """Look at all arguments but `chunk_size` and `mesh`, which `jmeta.tasks` does.

    Raises:
        TypeError: One is of the wrong kind.
        ValueError: One is out of range, or needs another.
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
        _check_validation(validation)
    if tensorboard and directory is None:
        raise ValueError("`tensorboard=True` needs a `directory` to write into.")


def _check_validation(validation):
    use = (
        "Pass a pair `(fn, sample)`, such as `(task_loss, jmeta.data.batch(sample,"
        " 100))`."
    )
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(
            "`validate` must be a pair `(fn, sample)`; got"
            f" {validate.kind(validation)}. {use}"
        )
    fn, sample = validation
    for each, (name, value) in enumerate((("fn", fn), ("sample", sample))):
        validate.function(f"validate[{each}]", value, use=f"It is the `{name}`. {use}")
    _check_task_function("validate[0]", fn)
    _check_sampler("validate[1]", sample)


def _check_task_function(name, fn):
    validate.function(name, fn, use=_TASK_LOSS)
    has_key = key_parameter(fn, None, None) is not None
    check_call(name, fn, (None, None), {"key": None} if has_key else {})


def _check_sampler(name, sample):
    validate.function(name, sample, use=_SAMPLE)
    check_call(name, sample, (None,), {}, "take a key, its one argument by position")
