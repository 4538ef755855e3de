"""Overrides whose form does not fit the setting."""

import jax.numpy as jnp
import pytest

from jmeta import PerStep, inner_loop
from jmeta.optim import sgd


@pytest.mark.parametrize(
    "value",
    [(0.1, 0.2), lambda step: (0.1, 0.2), PerStep((jnp.ones(2), jnp.ones(2)))],
    ids=["tuple", "callable", "per step"],
)
def test_a_pair_for_a_single_number_is_refused(value):
    with pytest.raises(ValueError, match="`lr` is a single number, not a pair; got"):
        inner_loop(lambda w: w**2, 1.0, sgd(), 2, hyperparams={"lr": value})
