"""The examples that learn data, losses and energies."""

import jax
import jax.numpy as jnp
import pytest

from examples import deep_energy, distillation, learned_loss, meta_rl
from tests.helpers import assert_trees_close
from tests.test_examples import assert_pictures, printed, promised

pytestmark = pytest.mark.standard_promotion(
    "examples are written under JAX's default, as users do"
)

MACHINES = 0.15
"""Other machines round otherwise, which long training makes visible."""


def full_size(example, folder, *flags):
    """The example's results as a user gets them, in float32."""
    with jax.enable_x64(False):
        return example.main([*flags, "--out", str(folder / "new" / "picture.png")])


def test_distillation(tmp_path, capsys):
    flags = "--steps", "2", "--meta-steps", "2"
    of_distilled, of_real = full_size(distillation, tmp_path, *flags)
    told = printed(capsys)
    assert f", 2 steps: {of_distilled:.1%}" in told
    assert f"ten real images, 20 steps: {of_real:.1%}" in told
    assert_pictures(tmp_path / "new", "picture")


def test_real_images_are_one_of_each_digit(key):
    images = distillation.real_images(key)
    assert images.shape == (10, 64)
    for digit, image in enumerate(images):
        (at,) = jnp.nonzero((distillation.X == image[None]).all(1))
        assert distillation.Y[at].tolist() == [digit]


@pytest.mark.slow
def test_ten_distilled_images_teach_more_than_ten_real_ones(tmp_path):
    of_distilled, of_real = full_size(distillation, tmp_path)
    promised(distillation, "of about 93 %, against 64 %")
    assert abs(of_distilled - 0.93) < 0.03
    assert abs(of_real - 0.64) < 0.03


def test_learned_loss(tmp_path, capsys):
    flags = "--steps", "2", "--meta-steps", "2"
    errors = full_size(learned_loss, tmp_path, *flags)
    told = printed(capsys)
    assert len(errors) == 5
    for (name, n), error in errors.items():
        assert f"{name} {n} steps: {error:.3f}" in told
    assert_pictures(tmp_path / "new", "picture")


@pytest.mark.slow
def test_a_learned_loss_is_better_where_the_plain_ones_are_poor(tmp_path):
    errors = full_size(learned_loss, tmp_path)
    assert 2 * errors["learned", 20] < min(
        errors["absolute", 500], errors["squared", 20]
    )
    promised(learned_loss, "about 0.07, against 0.37 after 20 and 0.21 after 500 steps")
    promised(learned_loss, "and 0.71 on the squared one")
    found = [errors[k] for k in (("absolute", 20), ("absolute", 500), ("squared", 500))]
    assert_trees_close(jnp.array(found), jnp.array([0.37, 0.21, 0.71]), 0.03)
    assert_trees_close(jnp.array(errors["learned", 20]), jnp.array(0.07), MACHINES)


def test_meta_rl(tmp_path, capsys):
    lives = full_size(meta_rl, tmp_path, "--meta-steps", "2")
    told = printed(capsys)
    assert f"learned discount {lives['learned']['discount'].mean():.2f}" in told
    assert jnp.ptp(lives["learned"]["discount"]) > 0
    assert jnp.ptp(lives["fixed 0.5"]["discount"]) == 0
    assert_pictures(tmp_path / "new", "picture")


def test_an_episode_ends_at_the_rewards(key):
    right = jnp.tile(jnp.array([[-50.0, 50.0]]), (meta_rl.CELLS, 1))
    for logits, moves, reward in ((right, 5, 1.0), (-right, 1, 0.2)):
        _, rewards, going = meta_rl.episode(logits, key)
        steps = jnp.arange(meta_rl.HORIZON)
        assert_trees_close(rewards, reward * (steps == moves - 1), 1e-12)
        assert_trees_close(going, 1.0 * (steps < moves), 1e-12)


@pytest.mark.slow
def test_the_discount_that_is_learned_finds_the_far_reward(tmp_path):
    lives = full_size(meta_rl, tmp_path)
    ends = jax.tree.map(lambda x: x[-20:].mean(), lives)
    promised(meta_rl, "return of 1.00, the best there is, and to a discount of 0.99")
    promised(meta_rl, "with both fixed they end at 0.21")
    assert abs(ends["learned"]["return"] - 1.0) < 0.02
    assert abs(ends["learned"]["discount"] - 0.99) < 0.01
    assert abs(ends["fixed 0.5"]["return"] - 0.21) < 0.02


def test_deep_energy(tmp_path, capsys):
    flags = "--steps", "3", "--meta-steps", "2"
    by_step, of_plain = full_size(deep_energy, tmp_path, *flags)
    told = printed(capsys)
    assert len(by_step) == 3
    assert f"energy, 3 steps, 859 parameters: F1 {by_step[-1]:.3f}" in told
    assert f"feed-forward, 871 parameters: F1 {of_plain:.3f}" in told
    assert_pictures(tmp_path / "new", "picture")


@pytest.mark.slow
def test_inference_by_an_energy_is_as_good_as_a_network(tmp_path):
    by_step, of_plain = full_size(deep_energy, tmp_path)
    promised(deep_energy, "an F1 score of about 0.55 from both")
    assert by_step[-1] > by_step[0]
    assert abs(by_step[-1] - 0.55) < 0.02
    assert abs(of_plain - 0.55) < 0.02
