"""An optimizer whose every step can be differentiated."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jmeta._core import validate
from jmeta._core.tree import strongly_typed
from jmeta._core.typing import PyTree
from jmeta._loop import checks
from jmeta._loop.inner_loop import inner_loop
from jmeta.adjoint import Adjoint, Unroll
from jmeta.higher._fmodel import FunctionalModel
from jmeta.higher._groups import by_label, group_labels
from jmeta.higher._loss import pure_loss
from jmeta.higher._options import check_options
from jmeta.higher._turn import Turn

GradCallback = Callable[[PyTree], PyTree]


class DifferentiableOptimizer:
    """An optimizer that trains a `FunctionalModel`, or parameters that it is handed.

    Made by `get_diff_optim`, `create_diff_optim` or `innerloop_ctx`.

    Attributes:
        tx: The transform.
        opt_state: Its state, with its own settings in place of the overrides.
        losses: What the newest `step` or `run` minimised, before each of its steps,
            shape `[steps]`; empty before the first.
    """

    def __init__(
        self,
        tx: optax.GradientTransformation,
        params: PyTree,
        fmodel: FunctionalModel | None = None,
        *,
        opt_state: PyTree = None,
        device: Any = None,
        override: Mapping[str, Any] | None = None,
        grad_callback: GradCallback | None = None,
        track_higher_grads: bool = True,
    ):
        validate.transform("tx", tx)
        validate.floats("params", params, use="They are what the optimizer trains.")
        if fmodel is not None:
            must = "a model, as `monkeypatch` makes it, or None"
            validate.instance("fmodel", fmodel, FunctionalModel, must)
        check_options(device, override, grad_callback)
        validate.flag("track_higher_grads", track_higher_grads)
        params = strongly_typed(params)
        first = tx.init(params)
        if opt_state is not None:
            opt_state = checks.opt_state(opt_state, tx, params)
        self.tx = tx
        self.opt_state = jax.device_put(
            first if opt_state is None else opt_state, device
        )
        self.losses = jnp.zeros((0,))
        self._labels = group_labels(first)
        self._override = by_label(override, self._labels)
        self._grad_callback = grad_callback
        self._track_higher_grads = track_higher_grads
        self._fmodel = fmodel
        self._turn = Turn() if fmodel is None else fmodel._turn
        self._steps = 0

    def step(
        self,
        loss_fn: Callable[..., jax.Array],
        override: Mapping[str, Any] | None = None,
        grad_callback: GradCallback | None = None,
        params: PyTree = None,
    ) -> PyTree:
        """Take one step, in place of `zero_grad`, `backward` and `step`.

        Args:
            loss_fn: Computes the scalar loss. Of no argument, with calls of `fmodel`
                inside: `lambda: loss(fmodel(x), y)`. Or of the parameters.
            override: As in `innerloop_ctx`, for this step only, where higher keeps it.
            grad_callback: In place of the one given at the beginning.
            params: Start from these; needed without an `fmodel`.

        Returns:
            The new parameters, which an `fmodel` has from now on.

        Raises:
            TypeError: `loss_fn` is a loss and no function, or takes other arguments.
            ValueError: The loss does not depend on the parameters, or see
                `inner_loop`.
            RuntimeError: Another thread is in a step of the same optimizer or model.
        """
        return self._train(loss_fn, 1, None, override, grad_callback, params, Unroll())

    def run(
        self,
        loss_fn: Callable[..., jax.Array],
        steps: int,
        batches: PyTree = None,
        *,
        override: Mapping[str, Any] | None = None,
        grad_callback: GradCallback | None = None,
        params: PyTree = None,
        adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
    ) -> PyTree:
        """Take many steps as one compiled loop, in place of a Python loop of `step`.

        Args:
            loss_fn: As in `step`; with `batches` it takes that step's slice of them as
                its last argument: `lambda batch: loss(fmodel(batch.x), batch.y)`.
            steps: How many.
            batches: Leading axis `steps`.
            override: As in `innerloop_ctx`, for these steps only; arrays of shape
                `[steps]` give a value for each.
            grad_callback: As in `step`.
            params: As in `step`.
            adjoint: How the loop is differentiated, see `jmeta.adjoint`.

        Returns:
            The parameters after the last step. Those of all times are in the history
            of an `fmodel`.

        Raises:
            TypeError: As in `step`.
            ValueError: As in `step`.
            RuntimeError: As in `step`.
        """
        return self._train(
            loss_fn, steps, batches, override, grad_callback, params, adjoint
        )

    def _train(self, *args):
        with self._turn.taken():
            return self._train_alone(*args)

    def _train_alone(
        self, loss_fn, steps, batches, override, grad_callback, params, adjoint
    ):
        validate.adjoint("adjoint", adjoint)
        check_options(None, override, grad_callback)
        if params is None:
            params = self._fast_params()
        validate.floats("params", params, use="They are what the step starts from.")
        hyperparams = self._override | by_label(override, self._labels)
        state = None if self._fmodel is None else self._fmodel.state
        run = inner_loop(
            pure_loss(loss_fn, self._fmodel, batches is not None),
            params,
            self.tx,
            steps,
            batches=batches,
            hyperparams=_from_step(hyperparams, self._steps),
            opt_state=self.opt_state,
            state=state,
            grad_callback=grad_callback or self._grad_callback,
            adjoint=adjoint,
            history=self._track_higher_grads and self._fmodel is not None,
        )
        if not self._track_higher_grads:
            run = jax.lax.stop_gradient(run)
        if self._fmodel is not None:
            self._fmodel._advance(run, steps)
        self.opt_state, self.losses = run.opt_state, run.losses
        self._steps += steps
        return run.params

    def _fast_params(self):
        if self._fmodel is None:
            raise ValueError(
                "Without an `fmodel` a step starts from parameters that it is handed:"
                " `params = diffopt.step(loss_fn, params=params)`."
            )
        return self._fmodel.fast_params


def _from_step(hyperparams, first):
    """Let callables `step -> value` count from the first step of all."""

    def shift(value):
        return (lambda step: value(step + first)) if callable(value) else value

    return jax.tree.map(shift, hyperparams)


def get_diff_optim(
    tx: optax.GradientTransformation,
    params: PyTree,
    fmodel: FunctionalModel | None = None,
    *,
    opt_state: PyTree = None,
    device: Any = None,
    override: Mapping[str, Any] | None = None,
    grad_callback: GradCallback | None = None,
    track_higher_grads: bool = True,
) -> DifferentiableOptimizer:
    """Make a differentiable optimizer of a transform.

    Args:
        tx: `jmeta.optim.*` or any optax transform.
        params: What it trains, or a tree of such shapes: any pytree of float arrays,
            inputs and images too. Only the optimizer's state is made of it.
        fmodel: The model that it trains, see `monkeypatch`. Without one every `step`
            is handed the parameters.
        opt_state: Go on from this optimizer state.
        device: A `jax.Device` or sharding to put the optimizer's state on.
        override: As in `innerloop_ctx`.
        grad_callback: As in `innerloop_ctx`.
        track_higher_grads: As in `innerloop_ctx`.

    Returns:
        The optimizer.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: `opt_state` or a list in `override` does not fit `tx`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def after_two_steps(lr, image):
        ...     diffopt = get_diff_optim(jmeta.optim.sgd(), image, override={"lr": lr})
        ...     for _ in range(2):
        ...         energy = lambda image: (image**2).sum()
        ...         image = diffopt.step(energy, params=image)
        ...     return image.sum()
        >>> image = jnp.array([1.0, 3.0])
        >>> float(after_two_steps(0.25, image))
        1.0
        >>> float(jax.grad(after_two_steps)(0.25, image))
        -8.0
    """
    return DifferentiableOptimizer(
        tx,
        params,
        fmodel,
        opt_state=opt_state,
        device=device,
        override=override,
        grad_callback=grad_callback,
        track_higher_grads=track_higher_grads,
    )


def create_diff_optim(
    opt_type: Callable[..., optax.GradientTransformation],
    opt_kwargs: Mapping[str, Any] | None = None,
    params: PyTree = None,
    fmodel: FunctionalModel | None = None,
    *,
    device: Any = None,
    override: Mapping[str, Any] | None = None,
    grad_callback: GradCallback | None = None,
    track_higher_grads: bool = True,
) -> DifferentiableOptimizer:
    """Make a differentiable optimizer by name and arguments of its factory.

    Args:
        opt_type: The factory, such as `jmeta.optim.sgd`.
        opt_kwargs: Its arguments.
        params: As in `get_diff_optim`; may be left out with an `fmodel`.
        fmodel: As in `get_diff_optim`.
        device: As in `get_diff_optim`, and so the rest.
        override: As in `innerloop_ctx`.
        grad_callback: As in `innerloop_ctx`.
        track_higher_grads: As in `innerloop_ctx`.

    Returns:
        The optimizer.

    Raises:
        TypeError: `opt_type` is no factory, `opt_kwargs` are not its arguments, or
            another argument is of the wrong kind.
        ValueError: Neither `params` nor `fmodel`.

    Example:
        >>> import jax.numpy as jnp, jmeta
        >>> fmodel = jmeta.monkeypatch((lambda w, x: w * x, jnp.array(1.0)))
        >>> diffopt = create_diff_optim(jmeta.optim.sgd, {"lr": 0.25}, fmodel=fmodel)
        >>> float(diffopt.step(lambda: fmodel(2.0) ** 2))
        -1.0
    """
    if not callable(opt_type) or isinstance(opt_type, optax.GradientTransformation):
        raise TypeError(
            "`opt_type` must be a factory of transforms, such as `jmeta.optim.sgd`;"
            f" got {validate.kind(opt_type)}. A transform goes to `get_diff_optim`."
        )
    kwargs = {} if opt_kwargs is None else opt_kwargs
    validate.mapping("opt_kwargs", kwargs, use="Pass for example `{'lr': 0.1}`.")
    if params is None:
        if not isinstance(fmodel, FunctionalModel):
            raise ValueError(
                "Pass `params` or `fmodel`, to say what is to be trained; got"
                f" {validate.kind(fmodel)} for `fmodel`, and no `params`."
            )
        params = fmodel.fast_params
    return DifferentiableOptimizer(
        _made(opt_type, kwargs),
        params,
        fmodel,
        device=device,
        override=override,
        grad_callback=grad_callback,
        track_higher_grads=track_higher_grads,
    )


def _made(opt_type, kwargs):
    """The transform that a factory makes."""
    name = getattr(opt_type, "__name__", "opt_type")
    signature = inspect.signature(opt_type)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise TypeError(
            f"`opt_kwargs` must be arguments of `{name}`; got {sorted(kwargs)}:"
            f" {error}."
            f" It takes {', '.join(f'`{name}`' for name in signature.parameters)}."
        ) from None
    tx = opt_type(**kwargs)
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            "`opt_type` must be a factory of transforms, such as `jmeta.optim.sgd`; got"
            f" {validate.kind(opt_type)}, which made {validate.kind(tx)}."
        )
    return tx
