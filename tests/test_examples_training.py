"""The examples of meta-training: devices, averages, runs that torch began."""

import jax
import pytest

from examples import continue_torch, ema_evaluation, multi_device
from tests.helpers import F32, F64_TORCH, assert_trees_close
from tests.test_examples import assert_pictures, printed, promised

pytestmark = pytest.mark.standard_promotion(
    "examples are written under JAX's default, as users do"
)


def test_continue_torch(tmp_path, capsys):
    differences = continue_torch.main(["--out", str(tmp_path / "new" / "picture.png")])
    told = printed(capsys)
    promised(continue_torch, "from 0.9520 to 0.0856")
    promised(continue_torch, "less than 1e-5 in float32 and by less than 1e-10 in")
    for dtype in ("float32", "float64"):
        assert f"{dtype}: loss from 0.9520 to 0.0856, at most" in told
    assert 0 < differences["float32"] < F32
    assert differences["float64"] < F64_TORCH
    assert_pictures(tmp_path / "new", "picture")


def test_continue_torch_needs_the_optimizers_state():
    with jax.enable_x64(True):
        data, losses, model, optimizer = continue_torch.read("float64")
        fields = {"exp_avg", "exp_avg_sq", "step"}
        assert all(set(state) == fields for state in optimizer["state"].values())
        optimizer["state"][0]["exp_avg"] = 0 * optimizer["state"][0]["exp_avg"]
        run = continue_torch.continue_training(data, model, optimizer, "float64")
    assert abs(run.losses - losses[-continue_torch.STEPS :]).max() > 1e-3


def test_multi_device(tmp_path, capsys):
    out = tmp_path / "new" / "picture.png"
    with jax.enable_x64(False):
        difference, runs = multi_device.main(
            ["--steps", "20", "--tasks", "6", "--out", str(out)]
        )
    told = printed(capsys)
    assert "one device: loss " in told
    assert "4 devices: loss " in told
    assert "parameters on 4" in told
    assert difference < F32
    one, four = runs.values()
    # near zero parameters cancel
    assert_trees_close(four.params, one.params, F32, F32)
    assert_pictures(tmp_path / "new", "picture")


def test_ema_evaluation(tmp_path, capsys):
    out = tmp_path / "new" / "picture.png"
    arguments = ["--steps", "10", "--outer-steps", "2", "--out", str(out)]
    with jax.enable_x64(False):
        results = ema_evaluation.main(arguments)
    told = printed(capsys)
    for judged_by in ("last weights", "average"):
        found = results[judged_by]
        assert f"{judged_by} {found['lr']:.3f} {found['decay']:.3f}" in told
        assert f"{found['last weights']:.3f} {found['average']:.3f}" in told
        assert abs(found["lr"] / 0.01 - 1) > 0.05
    # the last weights do not depend on it
    assert results["last weights"]["decay"] == 0.5 != results["average"]["decay"]
    assert_pictures(tmp_path / "new", "picture")


@pytest.mark.slow
def test_ema_evaluation_in_full(tmp_path):
    with jax.enable_x64(False):
        results = ema_evaluation.main(["--out", str(tmp_path / "picture.png")])
    promised(ema_evaluation, "0.054 for the last weights and of about 0.024 for the")
    # other machines round otherwise, which 60 outer steps make visible
    assert_trees_close(results["last weights"]["last weights"], 0.054, 0.1)
    assert_trees_close(results["average"]["average"], 0.024, 0.1)


@pytest.mark.slow
def test_multi_device_in_full(tmp_path):
    with jax.enable_x64(False):
        difference, _ = multi_device.main(["--out", str(tmp_path / "picture.png")])
    promised(multi_device, "losses that differ by less than 1e-5 during 200 steps")
    assert difference < 1e-5
