"""Many tasks from one key."""

from collections.abc import Callable

import jax

from jmeta._typing import Key
from jmeta.data._checks import at_least_one
from jmeta.tasks import Task


def batch(sample: Callable[[Key], Task], size: int) -> Callable[[Key], Task]:
    """A sampler of `size` independent tasks, stacked along a leading axis.

    Args:
        sample: Gives one task from a key, as the functions of `jmeta.data` make it.
        size: How many tasks.

    Returns:
        `key -> tasks`, with a leading axis of `size` on every leaf: what
        `task_value_and_grad` and `task_map` take.

    Raises:
        ValueError: `size` is below 1.

    Example:
        >>> import jax, jmeta
        >>> sample = batch(jmeta.data.sinusoid(shots=5), 32)
        >>> sample(jax.random.key(0)).support[0].shape
        (32, 5, 1)
    """
    at_least_one(size=size)
    return lambda key: jax.vmap(sample)(jax.random.split(key, size))
