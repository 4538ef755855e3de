"""Wrong calls of `fit`."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jmeta
from jmeta import Validation
from tests.wrong_calls.table import WrongCall

ARRAY = jnp.arange(3.0)
KEY, SGD = jax.random.key(0), optax.sgd(0.1)


def loss(w, task):
    return (w - task) ** 2


def with_aux(w, task):
    return (w - task) ** 2, w


def sample(key):
    return jax.random.normal(key, (2,))


def made(fn: Any, sample: Any):
    return Validation(fn, sample)


def fit(
    task_loss: Any = loss,
    params: Any = 1.0,
    tx: Any = SGD,
    sampler: Any = sample,
    steps: Any = 1,
    key: Any = KEY,
    **kwargs: Any,
):
    return jmeta.fit(task_loss, params, tx, sampler, steps, key=key, **kwargs)


measured = functools.partial(fit, with_aux, has_aux=True)

ROWS = [
    WrongCall(
        *("fit-task_loss-array", lambda: fit(ARRAY)),
        *(TypeError, "task_loss", "an array of shape (3,)", "jmeta.algorithms"),
    ),
    WrongCall(
        *("fit-task_loss-swapped-with-sample", lambda: fit(sample, sampler=loss)),
        *(TypeError, "task_loss", "a function of (key)", "take 2 arguments"),
    ),
    WrongCall(
        *("fit-task_loss-another-third", lambda: fit(lambda w, task, rng: w)),
        *(TypeError, "task_loss", "(w, task, rng)", "a parameter named `key`"),
    ),
    WrongCall(
        *("fit-task_loss-pair", lambda: fit(with_aux)),
        *(TypeError, "task_loss", "a tuple of 2", "pass `has_aux=True`"),
    ),
    WrongCall(
        *("fit-has_aux-none", lambda: fit(has_aux=None)),
        *(TypeError, "has_aux", "None", "True or False"),
    ),
    WrongCall(
        *("fit-has_aux-loss-alone", lambda: fit(has_aux=True)),
        *(ValueError, "task_loss", "a traced", "Leave `has_aux` out"),
    ),
    WrongCall(
        *("fit-params-none", lambda: fit(params=None)),
        *(TypeError, "meta_params", "None", "float arrays"),
    ),
    WrongCall(
        *("fit-params-empty", lambda: fit(params={})),
        *(ValueError, "meta_params", "a dict without a leaf", "one or more"),
    ),
    WrongCall(
        *("fit-params-integers", lambda: fit(params={"w": 1})),
        *(TypeError, "meta_params", "1 at the leaf", "capture what is not trained"),
    ),
    WrongCall(
        *("fit-params-module", lambda: fit(params=fit)),
        *(TypeError, "meta_params", "the function fit", "float arrays"),
    ),
    WrongCall(
        *("fit-tx-number", lambda: fit(tx=0.1)),
        *(TypeError, "tx", "0.1", "jmeta.optim.sgd(lr=0.1)"),
    ),
    WrongCall(
        *("fit-tx-factory", lambda: fit(tx=optax.adam)),
        *(TypeError, "tx", "function", "Call it"),
    ),
    WrongCall(
        *("fit-sample-array", lambda: fit(sampler=ARRAY)),
        *(TypeError, "sample", "an array of shape (3,)", "jmeta.data.batch"),
    ),
    WrongCall(
        *("fit-sample-two-arguments", lambda: fit(sampler=lambda key, size: ARRAY)),
        *(TypeError, "sample", "(key, size)", "functools.partial"),
    ),
    WrongCall(
        *("fit-sample-one-task", lambda: fit(sampler=lambda key: jnp.ones(()))),
        *(ValueError, "tasks", "[()]", "jmeta.data.batch"),
    ),
    WrongCall(
        *("fit-sample-string", lambda: fit(sampler=lambda key: "tasks")),
        *(TypeError, "tasks", "'tasks'", "jmeta.data.batch"),
    ),
    WrongCall(
        *("fit-steps-float", lambda: fit(steps=2.0)),
        *(TypeError, "steps", "2.0", "Python integer"),
    ),
    WrongCall(
        *("fit-steps-negative", lambda: fit(steps=-1)),
        *(ValueError, "steps", "-1", "at least 0"),
    ),
    WrongCall(
        *("fit-key-integer", lambda: fit(key=0)),
        *(TypeError, "key", "0", "jax.random.key(0)"),
    ),
    WrongCall(
        *("fit-key-many", lambda: fit(key=jax.random.split(KEY))),
        *(ValueError, "key", "shape (2,)", "Pass one of them"),
    ),
    WrongCall(
        *("fit-metrics-string", lambda: measured(metrics="accuracy")),
        *(TypeError, "metrics", "'accuracy'", "{name: scalar}"),
    ),
    WrongCall(
        *("fit-metrics-one-argument", lambda: measured(metrics=lambda aux: {})),
        *(TypeError, "metrics", "a function of (aux)", "take `(aux, tasks)`"),
    ),
    WrongCall(
        *("fit-metrics-no-dict", lambda: measured(metrics=lambda aux, tasks: 1.0)),
        *(TypeError, "metrics", "1.0", "a dict of scalars"),
    ),
    WrongCall(
        "fit-metrics-integer-name",
        lambda: measured(metrics=lambda aux, tasks: {3: 1.0}),
        *(TypeError, "metrics", "3", "names that are strings"),
    ),
    WrongCall(
        "fit-metrics-string-value",
        lambda: measured(metrics=lambda aux, tasks: {"a": "b"}),
        *(TypeError, "metrics['a']", "'b'", "arrays"),
    ),
    WrongCall(
        "fit-metrics-nested",
        lambda: measured(metrics=lambda aux, tasks: {"a": {"b": aux.mean()}}),
        *(TypeError, "metrics", "a dict", "a name of its own"),
    ),
    WrongCall(
        "fit-metrics-without-aux",
        lambda: fit(metrics=lambda aux, tasks: {}),
        *(ValueError, "metrics", "reads what", "`has_aux=True`"),
    ),
    WrongCall(
        *("fit-validate-function", lambda: fit(validate=loss)),
        *(TypeError, "validate", "the function loss", "`jmeta.Validation("),
    ),
    WrongCall(
        *("fit-validate-pair", lambda: fit(validate=(loss, sample))),
        *(TypeError, "validate", "a tuple", "`jmeta.Validation("),
    ),
    WrongCall(
        *("Validation-swapped", lambda: made(sample, loss)),
        *(TypeError, "fn", "a function of (key)", "take 2 arguments"),
    ),
    WrongCall(
        *("Validation-tasks", lambda: made(loss, ARRAY)),
        *(TypeError, "sample", "an array of shape (3,)", "jmeta.data.batch"),
    ),
    WrongCall(
        *("Validation-every", lambda: Validation(loss, sample, every=0)),
        *(ValueError, "every", "0", "at least 1"),
    ),
    WrongCall(
        "fit-validate-vector",
        lambda: fit(validate=Validation(lambda w, task: w * ARRAY, sample)),
        *(ValueError, "validate", "an array of shape (3,)", ".mean()"),
    ),
    WrongCall(
        "fit-validate-dict",
        lambda: fit(validate=Validation(lambda w, t: {"a": w}, sample)),
        *(ValueError, "validate", "a dict", "a scalar for a task"),
    ),
    WrongCall(
        *("fit-on_record-list", lambda: fit(on_record=[])),
        *(TypeError, "on_record", "a list", "called with a record"),
    ),
    *(
        WrongCall(
            *(f"fit-{name}-{value!r}", functools.partial(fit, **{name: value})),
            *(error, name, repr(value), use),
        )
        for name in ("save_every", "keep", "log_every")
        for value, error, use in (
            (0, ValueError, "at least 1"),
            (True, TypeError, "Python integer"),
            (2.5, TypeError, "Python integer"),
            ("5", TypeError, "Python integer"),
            (None, TypeError, "Python integer"),
        )
    ),
    WrongCall(
        *("fit-nonfinite-word", lambda: fit(nonfinite="stop")),
        *(ValueError, "nonfinite", "'stop'", "'raise' or 'skip'"),
    ),
    WrongCall(
        *("fit-progress-string", lambda: fit(progress="bar")),
        *(TypeError, "progress", "'bar'", "True or False"),
    ),
    WrongCall(
        *("fit-tensorboard-number", lambda: fit(tensorboard=1)),
        *(TypeError, "tensorboard", "1", "True or False"),
    ),
    WrongCall(
        *("fit-tensorboard-alone", lambda: fit(tensorboard=True)),
        *(ValueError, "tensorboard=True", "needs", "`directory`"),
    ),
    WrongCall(
        *("fit-mesh-string", lambda: fit(mesh="x")),
        *(TypeError, "mesh", "'x'", "jax.make_mesh"),
    ),
    WrongCall(
        *("fit-chunk_size-string", lambda: fit(chunk_size="2")),
        *(TypeError, "chunk_size", "'2'", "Python integer"),
    ),
    WrongCall(
        *("fit-directory-empty", lambda: fit(directory="")),
        *(ValueError, "directory", "''", "'.' for the working directory"),
    ),
    WrongCall(
        *("fit-directory-blank", lambda: fit(directory=" ")),
        *(ValueError, "directory", "' '", "such as 'runs/first'"),
    ),
    WrongCall(
        *("fit-directory-zero", lambda: fit(directory="a\0b")),
        *(ValueError, "directory", r"'a\x00b'", "such as 'runs/first'"),
    ),
    WrongCall(
        *("fit-directory-number", lambda: fit(directory=3)),
        *(TypeError, "directory", "3", "a path"),
    ),
    WrongCall(
        *("fit-directory-flag", lambda: fit(directory=True)),
        *(TypeError, "directory", "True", "a path"),
    ),
    WrongCall(
        *("fit-directory-file", lambda: fit(directory=__file__)),
        *(NotADirectoryError, "directory", Path(__file__).name, "out of the way"),
    ),
    WrongCall(
        *("fit-directory-in-a-file", lambda: fit(directory=f"{__file__}/runs")),
        *(
            NotADirectoryError,
            "directory",
            "cannot be made",
            "make the same call again",
        ),
    ),
]
