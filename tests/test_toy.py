"""The published toy run, digit by digit."""

import jax
import jax.numpy as jnp
import pytest

from examples import toy
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    finite_difference_grad,
)

F32_SETTINGS = 2e-7
"""Gradients of settings in float32 come back in float32."""

WEIGHTS = [
    -0.9914729595184326,
    -0.12170016149052032,
    1.0145277153569108,
    2.0639528412060164,
    2.8667556357008817,
    3.390784671483826,
]
META_LOSS = 0.011927987982895929
SETTINGS_GRADS = {"lr": -1.6294974088668823, "momentum": -0.9496139883995056}
WEIGHT_GRAD = -0.005311392538885414
AFTER_META_STEP = 0.01192798770078706

WAYS = {"innerloop_ctx": toy.by_context, "inner_loop": toy.by_inner_loop}


def differentiate(meta_loss, weight, settings=None, **options):
    """((meta-loss, path), (gradients of the settings, of the weight)), compiled."""
    published, data = toy.settings_and_data()

    def of(settings, weight):
        return meta_loss(settings, weight, data, 5, **options)

    hypergrad = jax.jit(jax.value_and_grad(of, argnums=(0, 1), has_aux=True))
    return hypergrad(settings or published, weight)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weak", [False, True], ids=["strong", "weak"])
def test_published_digits(way, weak):
    weight = toy.FIRST_WEIGHT if weak else jnp.float64(toy.FIRST_WEIGHT)
    (loss, path), (of_settings, of_weight) = differentiate(WAYS[way], weight)
    assert_trees_close(loss, META_LOSS, F64_SAME)
    assert_trees_close(path, jnp.array(WEIGHTS), F64_SAME)
    assert_trees_close(of_settings, SETTINGS_GRADS, F32_SETTINGS)
    assert_trees_close(of_weight, WEIGHT_GRAD, F32_SETTINGS)
    assert of_settings["lr"].dtype == jnp.float32
    assert of_weight.dtype == loss.dtype == jnp.float64


def test_no_gradient_of_a_copied_weight():
    (loss, _), (of_settings, of_weight) = differentiate(
        toy.by_context, toy.FIRST_WEIGHT, copy=True
    )
    assert of_weight == 0
    assert_trees_close(loss, META_LOSS, F64_SAME)
    assert_trees_close(of_settings, SETTINGS_GRADS, F32_SETTINGS)


@pytest.mark.parametrize("way", WAYS)
def test_after_a_meta_step(way):
    moved = toy.FIRST_WEIGHT - 1e-5 * WEIGHT_GRAD
    (loss, _), _ = differentiate(WAYS[way], moved)
    assert_trees_close(loss, AFTER_META_STEP, F64_SAME)
    # one-sided, over a distance of 5e-8
    difference = (loss - META_LOSS) / (moved - toy.FIRST_WEIGHT)
    assert_trees_close(difference, WEIGHT_GRAD, 1e-5)


def test_both_ways_agree_in_float64():
    settings = {"lr": jnp.float64(0.3), "momentum": jnp.float64(0.5)}
    by_context = differentiate(toy.by_context, toy.FIRST_WEIGHT, settings)
    by_inner_loop = differentiate(toy.by_inner_loop, toy.FIRST_WEIGHT, settings)
    assert_trees_close(by_context, by_inner_loop, F64_SAME)

    _, data = toy.settings_and_data()
    meta_loss = jax.jit(lambda at: toy.by_inner_loop(at[0], at[1], data, 5)[0])
    at = settings, jnp.float64(toy.FIRST_WEIGHT)
    expected = finite_difference_grad(meta_loss, at)
    assert_trees_close(by_inner_loop[1], expected, F64_DIFFERENCE)


@pytest.mark.standard_promotion("matplotlib computes with JAX's integers")
def test_example(tmp_path, capsys):
    out = tmp_path / "new" / "toy.png"
    toy.main(steps=5, out=out)
    told = capsys.readouterr().out
    assert told.count("-0.9915 -0.1217 1.0145 2.0640 2.8668 3.3908") == 4
    assert told.count("lr -1.6295  momentum -0.9496") == 4
    assert "first weight 0.000000" in told
    assert "finite difference -0.005311, gradient -0.005311" in told
    assert out.read_bytes().startswith(b"\x89PNG")
