"""Everything under tests/ is collected and run in float64, on four CPU devices.

The precision and the strict promotion of ranks and dtypes are contexts and not global
flags, so that the doctests of jmeta/, collected in the same process, keep JAX's
defaults. The hooks below act on the items of this folder alone, and cover what a
fixture would not: arrays made while a test module is imported, and fixtures of a wider
scope. Other people's code that mixes dtypes is run under the marker
`standard_promotion`.

A test runs what it compiles once, so XLA is told to compile quickly, which halves the
suite's time; flags in the environment come later and win. Tracing makes many small
objects that live, so Python looks for garbage less often than by default, which saves a
seventh. A process that has grown large gives back what it has compiled before the next
file, or it would grow by gigabytes.
"""

import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
from collections.abc import Generator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

FLAGS = [
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# XLA aborts at a flag that it does not know, and later ones lack this
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
# read when the first array is made
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])

gc.set_threshold(200_000, 20, 100)

# what a file may start with; the largest adds as much again
LARGE = 700 * 2**20


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.hookimpl(wrapper=True)
def _in_float64(item: pytest.Item | pytest.Collector) -> Generator[None, Any, Any]:
    mixed = item.get_closest_marker("standard_promotion")
    promotion = "standard" if mixed else "strict"
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion(promotion),
    ):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, Any, Any]:
    return (yield from _in_float64(collector))


pytest_runtest_setup = _in_float64
pytest_runtest_call = _in_float64


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, Any, Any]:
    result = yield from _in_float64(item)
    if nextitem is not None and nextitem.path != item.path and _resident() > LARGE:
        _give_memory_back()
    return result


def _resident() -> int:
    """Bytes of memory that this process has; 0 where that is not easily known."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_memory_back() -> None:
    gc.collect()
    jax.clear_caches()
    # what is freed stays with glibc until it is asked for it
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
