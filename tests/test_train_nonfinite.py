"""What is not finite never gets into parameters or the optimizer's state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import task_value_and_grad
from jmeta.train import _guard
from tests.helpers import F64_SAME, assert_trees_close
from tests.train_cases import meta_params, run, sample, task_loss

optax_mixes = pytest.mark.standard_promotion("optax's Adam mixes dtypes")

BAD = (7, 12, 13)


def marked_sample(bad):
    """Tasks and a mark, true at the steps that go wrong."""
    keys = jax.vmap(
        lambda t: jax.random.split(jax.random.fold_in(jax.random.key(3), t))[0]
    )(jnp.array(bad, int))
    marks = jax.random.key_data(keys)

    def marked(key):
        mark = (jax.random.key_data(key)[None] == marks).all(1).any()
        return sample(key), jnp.full(5, mark)

    return marked


def marked_loss(params, task, key):
    """The gradient by `b` is not finite where marked; loss and metrics are."""
    plain, mark = task
    # a root at 0 has an infinite derivative, which times 0 is none
    poison = jnp.sqrt(jnp.where(mark, 0.0 * params["b"], 1.0))
    loss, aux = task_loss(params, plain, key)
    return loss + 0.0 * poison.sum(), aux


def marked_metrics(aux, tasks):
    return {"before": aux["before"].mean()}


SETTINGS = {
    "task_loss": marked_loss,
    "metrics": marked_metrics,
    "validate": None,
    "sample": marked_sample(BAD),
}


def without(steps, bad):
    """The loop by hand that leaves these steps out."""
    tx = optax.adam(0.01)
    value_and_grad = task_value_and_grad(marked_loss, has_aux=True)
    draw = marked_sample(())

    @jax.jit
    def step(carry, t):
        params, opt_state = carry
        sample_key, key = jax.random.split(jax.random.fold_in(jax.random.key(3), t))
        (loss, _), grads = value_and_grad(params, draw(sample_key), key)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    carry, losses = (meta_params(), tx.init(meta_params())), {}
    for t in range(steps):
        if t not in bad:
            carry, losses[t] = step(carry, t)
    return carry, losses


@optax_mixes
def test_skips_and_counts():
    fitted = run(20, nonfinite="skip", **SETTINGS)
    expected, losses = without(20, BAD)
    assert_trees_close((fitted.params, fitted.opt_state), expected, F64_SAME)
    assert fitted.step == 20
    assert fitted.skipped == 3
    assert fitted.first_skipped == (7, "`gradient['b']`")
    assert [record["skipped"] for record in fitted.history] == [0, 1, 3, 3]
    assert "first_skipped" not in fitted.history[0]
    assert fitted.history[1]["first_skipped"] == "step 7: `gradient['b']`"
    # means are over the steps that were taken
    windows = [[losses[t] for t in range(s, s + 5) if t in losses] for s in (5, 10)]
    for record, window in zip(fitted.history[1:], windows, strict=False):
        assert_trees_close(record["loss"], np.mean(window), F64_SAME)


@optax_mixes
def test_raises_before_the_first_and_goes_on_when_mended(tmp_path):
    with pytest.raises(FloatingPointError) as raised:
        run(20, directory=tmp_path, **SETTINGS)
    message = str(raised.value)
    assert message.startswith("Step 7 must be finite; not finite: `gradient['b']`.")
    assert "sample(jax.random.split(jax.random.fold_in(key, 7))[0])" in message
    assert f"saved in {tmp_path}" in message
    with pytest.raises(FloatingPointError, match="Step 7 must be finite"):
        run(20, directory=tmp_path, **SETTINGS)
    mended = SETTINGS | {"sample": marked_sample(())}
    fitted = run(20, directory=tmp_path, **mended)
    whole = run(20, **mended)
    assert_trees_close((fitted.params, fitted.opt_state), whole[:2], 0.0)
    assert (fitted.step, fitted.skipped) == (20, 0)
    losses = [[record["loss"] for record in run.history] for run in (fitted, whole)]
    assert losses[0] == losses[1]


@optax_mixes
def test_a_run_that_raised_can_skip(tmp_path):
    with pytest.raises(FloatingPointError):
        run(20, directory=tmp_path, **SETTINGS)
    fitted = run(20, directory=tmp_path, nonfinite="skip", **SETTINGS)
    expected, _ = without(20, BAD)
    assert_trees_close((fitted.params, fitted.opt_state), expected, F64_SAME)
    assert fitted.first_skipped == (7, "`gradient['b']`")


def test_without_a_finite_step_the_mean_is_null(tmp_path):
    nan = lambda params, task: params.sum() * jnp.nan
    fitted = run(
        5,
        optax.sgd(0.1),
        task_loss=nan,
        meta_params=jnp.ones(2),
        has_aux=False,
        metrics=None,
        validate=jmeta.Validation(nan, sample),
        nonfinite="skip",
        directory=tmp_path,
    )
    assert fitted.params.tolist() == [1.0, 1.0]
    assert (fitted.skipped, fitted.best_step) == (5, None)
    assert fitted.first_skipped == (0, "`gradient`")
    (record,) = fitted.history
    assert record["loss"] is record["validation_loss"] is None
    assert '"loss": null' in (tmp_path / "metrics.jsonl").read_text()


UPDATES = {
    # a finite gradient whose square is not
    "`opt_state[0].nu`": optax.adam(0.1),
    "`params`": optax.scale(jnp.inf),
}


@optax_mixes
@pytest.mark.parametrize("leaf", UPDATES)
def test_an_update_that_is_not_finite_is_refused(leaf):
    fitted = run(
        5,
        UPDATES[leaf],
        task_loss=lambda w, task: 1e200 * w.sum(),
        meta_params=jnp.ones(2),
        has_aux=False,
        metrics=None,
        validate=None,
        nonfinite="skip",
    )
    assert fitted.first_skipped == (0, leaf)
    assert fitted.params.tolist() == [1.0, 1.0]
    chex.assert_tree_all_finite(fitted.opt_state)


def test_a_state_may_begin_at_infinity():
    one = jnp.ones(2)
    new = (one, {"best": jnp.array([jnp.inf, 1.0])})
    old = {"best": jnp.array([jnp.inf, jnp.inf])}
    assert not _guard.nonfinite(one, one.sum(), new, old).any()
    assert _guard.nonfinite(one, one.sum(), (one, old), new[1]).tolist() == [
        *(False, False, False),
        True,
    ]
