"""The examples: what they print, what they draw, and the numbers they promise.

`examples/toy.py` has `test_toy.py`.
"""

import jax
import jax.numpy as jnp
import pytest

from examples import (
    autograd,
    maml_sinusoid,
    optimizers,
    schedules as schedules_example,
)
from jmeta import schedules
from tests.helpers import F64_SAME, F64_TORCH, assert_trees_close
from tests.reference.read import case

ROUNDING = 1e-14
"""Of numbers of size 1 to 6, where their functions pass through 0."""


def promised(example, *lines):
    """Lines of a docstring, which a test then looks for in what the example prints."""
    words = " ".join(example.__doc__.split())
    for line in lines:
        assert line in words, f"{example.__name__} no longer promises {line!r}"
    return lines


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def assert_pictures(folder, *names):
    assert sorted(path.stem for path in folder.iterdir()) == sorted(names)
    for path in folder.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_autograd_equals_torch():
    chain, sine = case("autograd", "sin_chain"), case("autograd", "sin_derivatives")
    a = jnp.linspace(0, 2 * jnp.pi, 25)
    assert_trees_close(a, chain["a"], F64_SAME)
    assert_trees_close(autograd.curve(a), chain["d"], F64_TORCH, ROUNDING)
    value, grad = jax.value_and_grad(autograd.total)(a)
    assert_trees_close(value, chain["out"], F64_TORCH)
    assert_trees_close(grad, chain["grad"], F64_TORCH, ROUNDING)
    expected = [sine[name] for name in ("first", "second", "third")]
    found = autograd.derivatives(jnp.sin, a, 3)
    assert_trees_close(found, expected, F64_TORCH, ROUNDING)


def test_vector_jacobian_products_equal_torchs():
    row = case("autograd", "product")
    inputs = jnp.asarray(row["a"]), jnp.asarray(row["b"])
    assert_trees_close(autograd.polynomial(*inputs), row["q"], F64_TORCH)
    products = autograd.pull_back(autograd.polynomial, inputs, row["cotangent"])
    assert_trees_close(products, (row["grad_a"], row["grad_b"]), F64_TORCH)

    row = case("autograd", "doubling")
    x = jnp.asarray(row["x"])
    assert_trees_close(autograd.doubled(x), row["y"], F64_TORCH)
    products = autograd.pull_back(autograd.doubled, (x,), row["cotangent"])
    assert_trees_close(products, (row["vjp"],), F64_TORCH)


def test_autograd(tmp_path, capsys):
    autograd.main(["--out", str(tmp_path / "new")])
    told = printed(capsys)
    assert "sum 25 gradient at 0, pi 2 -2 second derivative at pi/2 -2" in told
    assert "product with ones 36 81 | -12 -8" in told
    promised(autograd, "36 81 in a, -12 -8 in b")
    for line in promised(autograd, "sum 25", "doubled 10 times 204.8 2048 0.2048"):
        assert line in told
    assert_pictures(tmp_path / "new", "autograd")


def test_descents_and_weights_have_closed_forms():
    path = optimizers.descend(0.03, 0.0, 4)
    assert_trees_close(path, 2 * (1 - 8 * 0.03) ** jnp.arange(5.0), F64_SAME)
    second = 2 - 2 * 8 * 0.03
    third = second - 8 * 0.03 * second - 0.5 * (2 - second)
    path = optimizers.descend(0.03, 0.5, 2)
    assert_trees_close(path, jnp.array([2.0, second, third]), F64_SAME)
    expected = (1 - 0.9) * 0.9 ** jnp.arange(100.0)
    assert_trees_close(optimizers.weights(0.9), expected, F64_SAME)
    age = round(1 / (1 - 0.98))
    assert expected.size > age
    ratio = optimizers.weights(0.98)[age] / optimizers.weights(0.98)[0]
    # (1 - 1 / n) ** n is 1 / e up to 1 / 2 n of it
    assert_trees_close(ratio, jnp.exp(-1.0), 1 / age)


@pytest.mark.standard_promotion("an example mixes dtypes, as users do")
def test_optimizers(tmp_path, capsys):
    # in float32 as a user runs it: the noise is drawn in the ambient precision
    with jax.enable_x64(False):
        optimizers.main(["--out", str(tmp_path / "new")])
    told = printed(capsys)
    for line in promised(
        optimizers,
        "lr 0.01 0.03 0.125 0.2 1",
        "x, 30 steps, momentum 0 0.164 0.000531 0 4.42e-07 4.51e+25",
        "x, 30 steps, momentum 0.5 0.00196 2.45e-05 3.22e-05 7.25e-05 3.71e+24",
        "beta 0.98 0.95 0.9 0.8",
        "newest weight 0.02 0.05 0.1 0.2",
        "error 0.344 0.191 0.149 0.172",
    ):
        assert line in told
    assert_pictures(tmp_path / "new", "averages", "descents", "weights")


def test_schedules(tmp_path, capsys):
    with jax.enable_x64(False):
        schedules_example.main(["--out", str(tmp_path / "new" / "schedules.png")])
    told = printed(capsys)
    line = "step_lr 0.025, exponential_lr 0.0218, cosine_annealing_lr 0, sequential_lr"
    for words in promised(schedules_example, f"{line} 0.0401")[0].split(", "):
        assert words in told
    assert_pictures(tmp_path / "new", "schedules")


def test_every_schedule_is_drawn():
    drawn = {
        name.replace("…", "annealing") for name in schedules_example.all_schedules()
    }
    rates = {name for name in dir(schedules) if name.endswith("_lr")}
    assert drawn == rates | {"cosine_annealing_warm_restarts"}


@pytest.mark.standard_promotion("Flax's weights are float32")
def test_maml_sinusoid(tmp_path, capsys):
    out = tmp_path / "new" / "maml.png"
    results = maml_sinusoid.main(["--meta-steps", "20", "--out", str(out)])
    told = capsys.readouterr().out
    assert "test MSE after     0 steps  1 steps  5 steps 10 steps" in told
    for name in ("MAML", "pretrained"):
        assert results[name].shape == (11,)
        assert f"{results[name][1]:9.3f}" in told
        assert jnp.isfinite(results[name]).all()
        assert len(set(results[name].tolist())) == 11
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.standard_promotion("an example mixes dtypes, as users do")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_maml_adapts_in_one_step(seed, tmp_path):
    with jax.enable_x64(False):
        out = str(tmp_path / "maml.png")
        results = maml_sinusoid.main(["--seed", str(seed), "--out", out])
    assert 5 * results["MAML"][1] <= results["pretrained"][1]
    if seed == 0:
        promised(maml_sinusoid, "0.36 after one step, against about 2.5")
        # other machines round otherwise, which 30 000 steps make visible
        assert_trees_close(results["MAML"][1], 0.36, 0.1)
        assert_trees_close(results["pretrained"][1], 2.5, 0.1)
