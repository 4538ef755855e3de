"""The examples that learn schedules, weights of samples and penalties."""

import jax
import jax.numpy as jnp
import pytest

from examples import implicit_hpo, noisy_labels, schedules_digits
from tests.helpers import assert_trees_close
from tests.test_examples import assert_pictures, printed, promised

pytestmark = pytest.mark.standard_promotion(
    "examples are written under JAX's default, as users do"
)

MACHINES = 0.1
"""Other machines round otherwise, which long training makes visible."""


def full_size(example, folder, *flags):
    """The example's results as a user gets them, in float32."""
    with jax.enable_x64(False):
        return example.main([*flags, "--out", str(folder / "new" / "picture.png")])


def test_schedules_digits(tmp_path, capsys):
    flags = "--steps", "6", "--meta-steps", "2"
    found, sizes = full_size(schedules_digits, tmp_path, *flags)
    told = printed(capsys)
    assert f"memory of the gradient through 12 steps: {sizes[1] / 1e6:.2f} MB" in told
    for name, (loss, accuracy) in found.items():
        assert jnp.isfinite(loss)
        assert f"{name} " in told
        assert f"validation loss {loss:.3f}, test accuracy {accuracy:.1%}" in told
    assert_pictures(tmp_path / "new", "picture")


def test_a_schedule_goes_through_its_knots():
    free = jnp.stack([jnp.log(jnp.arange(1.0, 6.0)), jnp.zeros(5)])
    lines = schedules_digits.schedule(free, 9)
    rates = lines["lr"](jnp.arange(0.0, 9.0))
    assert_trees_close(rates, jnp.arange(1.0, 5.5, 0.5), 1e-12)
    assert_trees_close(lines["momentum"](3.0), jnp.array(0.5), 1e-12)


@pytest.mark.slow
def test_a_learned_schedule_is_better_than_the_best_of_the_grid(tmp_path):
    found, sizes = full_size(schedules_digits, tmp_path)
    learned, best = found["learned"][0], found["best of 25"][0]
    assert learned < best
    # beside the tangents there is a loss of four bytes for each step
    assert abs(sizes[1] - sizes[0]) <= 8 * 500 < sizes[0] / 50
    promised(schedules_digits, "validation loss of about 0.12, against 0.16")
    assert_trees_close(learned, 0.12, MACHINES)
    assert_trees_close(best, 0.16, MACHINES)


def test_noisy_labels(tmp_path, capsys):
    flags = "--steps", "3", "--meta-steps", "2"
    accuracies = full_size(noisy_labels, tmp_path, *flags)
    told = printed(capsys)
    assert len(accuracies) == 4
    for title, accuracy in accuracies.items():
        assert f"test accuracy, {title} {accuracy:.1%}" in told
    assert_pictures(tmp_path / "new", "picture")


def test_forty_percent_of_the_labels_are_wrong():
    data = noisy_labels.digits(jax.random.key(0))
    assert (data["noisy"][1] != data["clean"][1]).sum() == 400
    assert ((data["noisy"][1] >= 0) & (data["noisy"][1] <= 9)).all()
    assert [len(y) for _, y in data.values()] == [1000, 100, 697, 1000]


@pytest.mark.slow
def test_weights_recover_more_than_half_of_what_the_noise_cost(tmp_path):
    clean, noisy, few, reweighted = full_size(noisy_labels, tmp_path).values()
    assert reweighted - noisy >= 0.5 * (clean - noisy)
    assert reweighted > few
    promised(
        noisy_labels, "94 %; it is 97 % with clean labels, 80 % with noisy, 90 % from"
    )
    found = clean, noisy, few, reweighted
    for accuracy, promise in zip(found, (0.97, 0.80, 0.90, 0.94), strict=True):
        assert abs(accuracy - promise) < 0.03


def test_implicit_hpo(tmp_path, capsys):
    results = full_size(implicit_hpo, tmp_path, "--meta-steps", "2")
    told = printed(capsys)
    for name, (penalties, before, after, error) in results.items():
        assert len(set(penalties.tolist())) == len(penalties)
        assert after[0] < before[0]
        assert error < 1e-5
        assert f"{name} largest relative error of the gradient {error:.0e}" in told
        assert f"learned {after[1]:.3f}" in told
    assert_pictures(tmp_path / "new", "picture")


@pytest.mark.slow
def test_implicit_gradients_are_those_of_the_closed_form(tmp_path):
    results = full_size(implicit_hpo, tmp_path)
    assert max(float(error) for *_, error in results.values()) < 1e-4
    promised(implicit_hpo, "less than 1e-4 of their size", "falls from 0.33, with")
    promised(implicit_hpo, "penalties, to 0.27", "0.11 to 0.12 while its validation")
    promised(implicit_hpo, "loss falls from 0.11 to 0.02")
    (_, *ridge, _), (_, *logistic, _) = results["ridge"], results["logistic"]
    assert_trees_close(jnp.array(ridge)[:, 1], jnp.array([0.33, 0.27]), 0.03)
    expected = jnp.array([[0.11, 0.11], [0.02, 0.12]])
    assert jnp.abs(jnp.array(logistic) - expected).max() < 0.006
