"""What the algorithms share: adapting to a task, the query loss, their checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jmeta._core import validate
from jmeta._core.key_argument import with_optional_key
from jmeta._core.typing import Key, PyTree
from jmeta._loop import checks
from jmeta._loop.inner_loop import Run, inner_loop
from jmeta.algorithms import _checks
from jmeta.tasks import Task

TaskLoss = Callable[..., tuple[jax.Array, "Adapted"]]
"""A pure function `(meta_params, task, key=None) -> (loss, aux)`."""


class Adapted(NamedTuple):
    """What adapting to a task gives besides the meta-loss.

    Attributes:
        outputs: Predictions on the query inputs by the adapted parameters. For
            `adapted` the aux of its outer loss.
        losses: The support loss before each step, shape `[steps]`.
        residual: For an implicit adjoint, as in `imaml`, how far the loop is from a
            solution at the end (for `imaml` the norm of the inner gradient); else None.
    """

    outputs: PyTree
    losses: jax.Array
    residual: jax.Array | None = None


class Learner(NamedTuple):
    """A model with its inner optimizer, as `make_learner` checks and makes it.

    Attributes:
        apply_fn: `(params, *inputs, key=None) -> outputs`.
        tx: The inner optimizer.
        steps: Number of inner steps.
        loss_fn: `(outputs, targets) -> loss`, a scalar.
    """

    apply_fn: Callable[..., Any]
    tx: optax.GradientTransformation
    steps: int
    loss_fn: Callable[..., Any]

    def adapt(self, params: PyTree, task: Task, key: Key | None, **options: Any) -> Run:
        """Train on the support set; step t gets the key `fold_in(key, t)`."""
        options |= {"loss_fn": self.loss_fn, "batch": task.support, "key": key}
        return inner_loop(self.apply_fn, params, self.tx, self.steps, **options)

    def query_loss(
        self, params: PyTree, task: Task, key: Key | None
    ) -> tuple[jax.Array, PyTree]:
        """Compute loss and outputs on the query set."""
        inputs, targets = task.query
        outputs = self.apply_fn(params, inputs, key=self.query_key(key))
        return self.loss_fn(outputs, targets), outputs

    def query_key(self, key: Key | None) -> Key | None:
        """The key for the query set, the next one after those of the steps."""
        return None if key is None else jax.random.fold_in(key, self.steps)


def make_learner(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    loss_fn: Callable[..., Any],
) -> Learner:
    """Check what every algorithm takes, and put it together.

    A caller that draws keys, such as a training loop, gives one to every task loss. A
    model without randomness need not take it: `apply_fn` gets a key only if it has a
    parameter `key`.
    """
    _checks.apply_fn(apply_fn)
    validate.transform("tx", tx)
    checks.steps(steps)
    use = "Pass `loss_fn(outputs, targets)`, which gives a scalar."
    validate.function("loss_fn", loss_fn, use=use)
    loss_fn = _checks.checked_loss("loss_fn", loss_fn)
    return Learner(with_optional_key("apply_fn", apply_fn), tx, steps, loss_fn)


def check_task(task: Any, key: Any) -> None:
    """Refuse a task that is no `Task` of pairs, and a key that is none."""
    _checks.key(key)
    must = "`jmeta.Task(support=(x, y), query=(x, y))`"
    validate.instance("task", task, Task, must)
    for name, pair in zip(task._fields, task, strict=True):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"`{name}` of a task must be a pair `(x, y)`; got"
                f" {validate.kind(pair)}. Make the task by {must}."
            )


def check_params(meta_params: Any, kind: type, maker: str) -> None:
    """Refuse meta-parameters that lack what is learned besides the weights."""
    if not isinstance(meta_params, kind):
        raise TypeError(
            f"`meta_params` must be `{kind.__name__}`; got a"
            f" {type(meta_params).__name__}. Make it from the weights by"
            f" `jmeta.algorithms.{maker}`."
        )
