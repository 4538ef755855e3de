"""A short run whose files are harmed."""

import functools
import json
import tempfile
from pathlib import Path

import jax.numpy as jnp
import optax

import jmeta
from tests import train_cases
from tests.helpers import assert_trees_close

SETTINGS = {
    "task_loss": lambda params, task: (params**2).sum(),
    "meta_params": jnp.ones(2),
    "has_aux": False,
    "metrics": None,
    "tx": optax.sgd(0.1),
    "save_every": 2,
    "log_every": 1,
    "validate": jmeta.Validation(
        lambda params, task: (params**2).sum(), train_cases.sample, every=2
    ),
}


def run(directory, steps=6, **kwargs):
    return train_cases.run(steps, directory=directory, **SETTINGS | kwargs)


def finished_run(directory):
    """The directory of a run of four steps."""
    for name, content in _four_steps().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def contents(directory):
    """All files of a run but the lock's."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "fit.lock"
    }


def assert_goes_on(directory):
    """To six steps, as a run that nothing stopped."""
    fitted = run(directory)
    assert_trees_close(fitted.params, _whole(), 0.0)
    assert [record["step"] for record in fitted.history] == list(range(1, 7))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == fitted.history


@functools.cache
def _four_steps():
    with tempfile.TemporaryDirectory() as folder:
        run(folder, 4)
        return contents(Path(folder))


@functools.cache
def _whole():
    return run(None).params
