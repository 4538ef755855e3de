"""Turn the loss of a step into the pure objective of an inner loop."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jmeta.higher._fmodel import FunctionalModel


def pure_loss(
    loss_fn: Callable[..., jax.Array], fmodel: FunctionalModel | None, with_batch: bool
) -> Callable[..., Any]:
    """Make a pure function of a loss that may call `fmodel`.

    While the loss is computed, `fmodel` has the parameters and the state that JAX
    traces; afterwards it has its own again.

    Args:
        loss_fn: Function of no argument or of the parameters; with a batch that is its
            last argument.
        fmodel: The model that the loss calls, None without one.
        with_batch: Whether the loss takes a batch.

    Returns:
        `objective(params[, state][, batch])`, as `inner_loop` takes it.

    Raises:
        TypeError: `loss_fn` is no function, or takes other arguments.
    """
    takes_params = _takes_params(loss_fn, with_batch, must=fmodel is None)
    if fmodel is None:
        return lambda params, *batch: _refuse_aux(loss_fn(params, *batch))

    def objective(params, *args):
        state, batch = (None, args) if fmodel.state is None else (args[0], args[1:])
        with fmodel._differentiating(params, state) as differentiated:
            loss = _refuse_aux(loss_fn(*[params] * takes_params, *batch))
            if not takes_params and not differentiated.was_read:
                raise ValueError(_NOT_READ)
            return loss if state is None else (loss, fmodel.state)

    return objective


_NOT_READ = (
    "The loss must be computed from the parameters by the function itself; this one"
    " does not call `fmodel`, and outputs from before are constants. Write"
    " `diffopt.step(lambda: loss(fmodel(x), y))`."
)


def _refuse_aux(loss):
    """Return the loss; a tuple with more than the loss is refused."""
    if isinstance(loss, tuple):
        raise ValueError(
            "The loss function of a step must return the loss alone; got a tuple of"
            f" {len(loss)}. Compute the rest from `fmodel` after the step."
        )
    return loss


def _takes_params(loss_fn, with_batch, must):
    """Whether a loss function takes the parameters, apart from a batch.

    A function that could be called in both ways is called without them, unless it
    `must` take them.
    """
    if not callable(loss_fn):
        got = "an array" if isinstance(loss_fn, jax.Array) else f"{loss_fn!r}"
        raise TypeError(
            "`step` takes a function that computes the loss, since JAX has no tape; got"
            f" {got}. In place of `diffopt.step(loss(fmodel(x), y))` write"
            " `diffopt.step(lambda: loss(fmodel(x), y))`."
        )
    signature = inspect.signature(loss_fn)
    for takes in (True,) if must else (False, True):
        try:
            signature.bind(*[None] * (takes + with_batch))
        except TypeError:
            continue
        return takes
    batch = ["batch"] if with_batch else []
    forms = " or ".join(
        f"`loss_fn({', '.join(names)})`"
        for names in ([["params", *batch]] if must else [batch, ["params", *batch]])
    )
    raise TypeError(
        f"The loss must be a function {forms}; got the arguments {signature}."
    )
