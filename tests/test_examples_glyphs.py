"""Few-shot letters: what the example prints, draws, and promises at full size."""

import jax
import numpy as np
import pytest

from examples import glyphs_maml
from tests.helpers import assert_trees_close
from tests.test_examples import assert_pictures, printed, promised

pytestmark = pytest.mark.standard_promotion(
    "examples are written under JAX's default, as users do"
)

TINY = "--shots 2 --channels 2 --meta-steps 2 --test-tasks 11".split()


def test_glyphs_maml(tmp_path, capsys):
    out = tmp_path / "new"
    with jax.enable_x64(False):
        results = glyphs_maml.main([*TINY, "--out", str(out / "glyphs_maml.png")])
    told = printed(capsys)
    assert list(results) == ["MAML", "random weights"]
    for name, right in results.items():
        assert right.shape == (11, 4, 25)
        assert right.dtype == bool
        percent = 100 * right.mean(-1)
        half = 1.96 * percent.std(0, ddof=1) / np.sqrt(11)
        row = ", ".join(
            f"{m:.1f} ± {h:.1f}" for m, h in zip(percent.mean(0), half, strict=True)
        )
        assert f"{name}: test accuracy after 0, 1, ... steps {row} %" in told
    assert not np.array_equal(*results.values())
    assert_pictures(out, "glyphs_maml")


@pytest.mark.slow
def test_glyphs_maml_at_full_size(tmp_path):
    promised(
        glyphs_maml,
        "an accuracy of about 94 %, against 20 % without the step",
        "37 % with the step from random weights",
    )
    with jax.enable_x64(False):
        results = glyphs_maml.main(["--out", str(tmp_path / "maml.png")])
    accuracies = {name: right.mean((0, 2)) for name, right in results.items()}
    assert results["MAML"].shape[0] == 600
    assert accuracies["MAML"][1] >= 0.7
    assert accuracies["MAML"][1] >= 2 * accuracies["MAML"][0]
    # other machines round otherwise, which 1000 steps make visible
    found = [*accuracies["MAML"][:2], accuracies["random weights"][1]]
    assert_trees_close(np.array(found), np.array([0.2, 0.94, 0.37]), 0.0, 0.02)
