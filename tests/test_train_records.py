"""What a run keeps and tells as it goes, and goes on with: records, the best, bars."""

from unittest import mock

import jax.numpy as jnp
import optax
import pytest
import tensorboardX
import tqdm

import jmeta
from tests.helpers import assert_trees_close
from tests.test_train_resume import TX, kept
from tests.train_cases import run, sample, task_loss

pytestmark = pytest.mark.standard_promotion("optax's Adam and noise mix dtypes")


def test_validation_has_a_step_of_its_own(tmp_path):
    """Killed between a validation and a checkpoint: both come again, the same."""
    told = []
    settings = {
        "validate": jmeta.Validation(task_loss, sample, every=4),
        "directory": tmp_path,
        "on_record": told.append,
        "tx": TX,
    }
    whole = run(23, **{**settings, "directory": None})
    validated = [r["step"] for r in whole.history if "validation_loss" in r]
    assert validated == [4, 8, 12, 16, 20, 23]
    assert told == whole.history
    told.clear()
    with pytest.raises(ZeroDivisionError):
        run(23, **settings | {"on_record": lambda record: 1 / (record["step"] < 16)})
    assert kept(tmp_path) == [10]
    fitted = run(23, **settings)
    assert [record["step"] for record in told] == [12, 15, 16, 20, 23]
    without_rate = lambda records: [record | {"rate": 0} for record in records]
    assert without_rate(fitted.history) == without_rate(whole.history)
    assert fitted.best_step == whole.best_step
    assert_trees_close(fitted.params, whole.params, 0.0)


def test_keeps_the_last_and_the_best(tmp_path):
    # further from zero is worse, and every step goes further
    settings = {
        "task_loss": lambda params, task: -params.sum(),
        "validate": jmeta.Validation(
            lambda params, task: jnp.sum(params**2), sample, every=10
        ),
        "meta_params": jnp.ones(2),
        "has_aux": False,
        "metrics": None,
        "directory": tmp_path,
        "keep": 2,
        "tx": optax.sgd(1.0),
    }
    for steps in (50, 60):
        fitted = run(steps, **settings)
        assert kept(tmp_path) == [10, steps - 10, steps]
        assert fitted.best_step == 10
        assert_trees_close(fitted.best_params, jnp.full(2, 11.0), 0.0)
        assert_trees_close(fitted.params, jnp.full(2, steps + 1.0), 0.0)


def test_tensorboard(tmp_path):
    run(10, TX, directory=tmp_path, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"validation_loss" in events.read_bytes()


def test_bar_and_events_go_on_where_the_run_does(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(
        tensorboardX,
        "SummaryWriter",
        lambda *args, **kwargs: begun.append((args, kwargs)) or mock.MagicMock(),
    )
    monkeypatch.setattr(
        tqdm, "tqdm", lambda **kwargs: begun.append(kwargs) or mock.MagicMock()
    )
    settings = {"directory": tmp_path, "tensorboard": True, "progress": True}
    for steps in (10, 20):
        run(steps, TX, **settings)
    folder = str(tmp_path / "tensorboard")
    assert begun == [
        # what an earlier run wrote of this step and later ones is taken back
        ((folder,), {"purge_step": 1}),
        {"initial": 0, "total": 10, "unit": "step"},
        ((folder,), {"purge_step": 11}),
        {"initial": 10, "total": 20, "unit": "step"},
    ]


def test_goes_on_with_parameters_of_no_entry(tmp_path):
    settings = {
        "task_loss": lambda p, task: (p["w"] - task) ** 2 + p["none"].sum(),
        "meta_params": {"w": jnp.array(0.0), "none": jnp.zeros((2, 0))},
        "sample": lambda key: jnp.array([1.0, 3.0]),
        **{"has_aux": False, "metrics": None, "validate": None},
        "directory": tmp_path,
        "tx": optax.sgd(0.1),
    }
    run(10, **settings)
    fitted = run(20, **settings)
    assert fitted.params["none"].shape == (2, 0)
    assert_trees_close(fitted.params["w"], 2 - 2 * 0.8**20, 1e-12)
