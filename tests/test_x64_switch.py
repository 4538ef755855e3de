"""A numpy array that JAX saw under another `jax_enable_x64` keeps that width.

JAX remembers what it made of an array by the array alone, as long as anything holds
it. That is JAX's, and this test names it: it fails when JAX is mended, and then the
row of README's table of corners goes too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from tests.helpers import assert_trees_close


def trained(captured):
    tx, start = jmeta.optim.sgd(lr=0.25), jnp.zeros(2)
    return jmeta.inner_loop(lambda w: jnp.sum((w - captured) ** 2), start, tx, 1).params


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
@pytest.mark.parametrize("first", [True, False], ids=["wide first", "narrow first"])
def test_a_captured_array_under_another_width(first):
    captured = np.array([1.0, 2.0])
    with jax.enable_x64(first):
        kept = jax.make_jaxpr(lambda w: w * captured)(jnp.zeros(2))
    with jax.enable_x64(not first):
        with pytest.raises(TypeError, match="same dtypes, got float"):
            trained(captured)
        # the way out: an array of its own
        assert_trees_close(trained(captured.copy()), jnp.array([0.5, 1.0]), 1e-7)
    assert kept.consts[0].dtype == (np.float64 if first else np.float32)
