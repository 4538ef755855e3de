"""What the algorithms share: adaptation to a task, its judgement, their checks."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import linen

from jmeta import _check, _validate
from jmeta._typing import Key, PyTree
from jmeta.inner_loop import Run, inner_loop
from jmeta.tasks import Task

TaskLoss = Callable[..., tuple[jax.Array, "Adapted"]]
"""`(meta_params, task, key=None) -> (loss, aux)`, pure."""


class Adapted(NamedTuple):
    """What adapting to a task gave, beside the meta-loss.

    Attributes:
        outputs: Predictions on the query inputs by the adapted parameters.
        losses: The support loss before each step, shape `[steps]`.
        residual: For `imaml` the norm of the inner gradient at the end, which says how
            well the loop converged; else None.
    """

    outputs: PyTree
    losses: jax.Array
    residual: jax.Array | None = None


class Learner(NamedTuple):
    """A model with its inner optimizer, checked by `learner`.

    Attributes:
        apply_fn: `(params, *inputs, key=None) -> outputs`.
        tx: The inner optimizer.
        steps: Inner steps.
        loss_fn: `(outputs, targets) -> loss`.
    """

    apply_fn: Callable[..., Any]
    tx: optax.GradientTransformation
    steps: int
    loss_fn: Callable[..., Any]

    def adapt(self, params: PyTree, task: Task, key: Key | None, **options: Any) -> Run:
        """Train on the support set; step t gets the key `fold_in(key, t)`."""
        options |= {"loss_fn": self.loss_fn, "batch": task.support, "key": key}
        return inner_loop(self.apply_fn, params, self.tx, self.steps, **options)

    def judge(
        self, params: PyTree, task: Task, key: Key | None
    ) -> tuple[jax.Array, PyTree]:
        """Loss and outputs on the query set, whose key is `fold_in(key, steps)`."""
        inputs, targets = task.query
        outputs = self.apply_fn(params, inputs, key=self.query_key(key))
        return self.loss_fn(outputs, targets), outputs

    def query_key(self, key: Key | None) -> Key | None:
        """The key after those of the steps."""
        return None if key is None else jax.random.fold_in(key, self.steps)


def learner(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    loss_fn: Callable[..., Any],
) -> Learner:
    """Refuse what no algorithm can use, and drop keys that `apply_fn` does not take.

    A caller that draws keys, such as a training loop, gives one to every task loss;
    a model without randomness need not take it.
    """
    _validate.transform("tx", tx)
    _check.steps(steps)
    if not callable(apply_fn):
        raise TypeError(
            "`apply_fn` must be a function `apply_fn(params, inputs)`; got a"
            f" {type(apply_fn).__name__}. Of a module make one: `apply_fn, params ="
            " jmeta.make_functional(module, state=False)`."
        )
    if not callable(loss_fn):
        raise TypeError(
            "`loss_fn` must be a function `loss_fn(outputs, targets)`; got a"
            f" {type(loss_fn).__name__}."
        )
    parameters = inspect.signature(_called(apply_fn)).parameters.values()
    takes_key = any(p.name == "key" or p.kind is p.VAR_KEYWORD for p in parameters)

    def call(params: PyTree, *inputs: PyTree, key: Key | None = None) -> PyTree:
        keyed = takes_key and key is not None
        return apply_fn(params, *inputs, **({"key": key} if keyed else {}))

    return Learner(call, tx, steps, loss_fn)


def _called(apply_fn):
    """What gets the key: linen's `module.apply` hands all on to the module's call."""
    module = getattr(apply_fn, "__self__", None)
    return module.__call__ if isinstance(module, linen.Module) else apply_fn


def check_task(task: Any) -> None:
    """Refuse what is no `Task`."""
    if not isinstance(task, Task):
        raise TypeError(
            "A task must be `jmeta.Task(support=(x, y), query=(x, y))`; got a"
            f" {type(task).__name__}."
        )


def check_params(meta_params: Any, kind: type, maker: str) -> None:
    """Refuse meta-parameters that lack what is learned beside the weights."""
    if not isinstance(meta_params, kind):
        raise TypeError(
            f"`meta_params` must be `{kind.__name__}`; got a"
            f" {type(meta_params).__name__}. Make it from the weights by"
            f" `jmeta.algorithms.{maker}`."
        )
