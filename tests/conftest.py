"""Everything under tests/ is collected and run in float64, on four CPU devices.

The precision and the strict rank promotion are contexts and not global flags, so that
the doctests of jmeta/, collected in the same process, keep JAX's defaults. The hooks
below act on the items of this folder alone, and cover what a fixture would not: arrays
made while a test module is imported, and fixtures of a wider scope.
"""

import os
from collections.abc import Generator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import pytest


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.hookimpl(wrapper=True)
def _in_float64() -> Generator[None, Any, Any]:
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        return (yield)


pytest_make_collect_report = _in_float64
pytest_runtest_setup = _in_float64
pytest_runtest_call = _in_float64
pytest_runtest_teardown = _in_float64
