"""The examples that learn data, losses and energies."""

import jax
import jax.numpy as jnp
import pytest

from examples import distillation, learned_loss
from tests.helpers import assert_trees_close
from tests.test_examples import assert_pictures, printed, promised

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
    promised(distillation, "of about 86 %, against 64 %")
    assert abs(of_distilled - 0.86) < 0.03
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
