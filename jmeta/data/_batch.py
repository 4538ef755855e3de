"""Many tasks from one key."""

from collections.abc import Callable

import jax

from jmeta._core import validate
from jmeta._core.typing import Key
from jmeta.tasks import Task


def batch(sample: Callable[[Key], Task], size: int) -> Callable[[Key], Task]:
    """A sampler of `size` independent tasks, stacked along a leading axis.

    Args:
        sample: `key -> task`, such as the functions of `jmeta.data` make.
        size: Number of tasks.

    Returns:
        `key -> tasks`, with a leading axis of `size` on every leaf, as
        `task_value_and_grad` and `task_map` take them.

    Raises:
        TypeError: `sample` is no function, or `size` is no integer.
        ValueError: `size` is below 1.

    Example:
        >>> import jax, jmeta
        >>> sample = batch(jmeta.data.sinusoid(shots=5), 32)
        >>> sample(jax.random.key(0)).support[0].shape
        (32, 5, 1)
    """
    validate.function(
        "sample", sample, use="Pass what `jmeta.data.sinusoid()` or its like returned."
    )
    validate.count("size", size, minimum=1)

    def sample_batch(key: Key) -> Task:
        validate.key("key", key)
        return jax.vmap(sample)(jax.random.split(key, size))

    return sample_batch
