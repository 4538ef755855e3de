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
from jmeta.higher._groups import group_labels, values_by_label
from jmeta.higher._loss import pure_loss
from jmeta.higher._options import check_options
from jmeta.higher._thread_guard import ThreadGuard

GradCallback = Callable[[PyTree], PyTree]


class DifferentiableOptimizer:
    """An optimizer that trains a `FunctionalModel`, or parameters that it is handed.

    Made by `get_diff_optim`, `create_diff_optim` or `innerloop_ctx`.

    Attributes:
        tx: The transform.
        opt_state: The transform's state. It holds the transform's own settings, not the
            overrides.
        losses: The loss before each step of the newest `step` or `run`, shape
            `[steps]`; empty before the first step.
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
        self._override = values_by_label(override, self._labels)
        self._grad_callback = grad_callback
        self._track_higher_grads = track_higher_grads
        self._fmodel = fmodel
        self._thread_guard = ThreadGuard() if fmodel is None else fmodel._thread_guard
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
            loss_fn: Function that computes the scalar loss. It takes either no
                argument and calls `fmodel`, as `lambda: loss(fmodel(x), y)`, or the
                parameters.
            override: Settings by name, for this step only; `innerloop_ctx` tells their
                forms. (In higher they stay for later steps.)
            grad_callback: Function of the gradients, in place of the one given at the
                beginning.
            params: The parameters from which the step starts; needed without an
                `fmodel`. Default the newest of the `fmodel`.

        Returns:
            The new parameters, which the `fmodel` has from now on.

        Raises:
            TypeError: `loss_fn` is a loss and no function, or takes other arguments.
            ValueError: The loss does not depend on the parameters, or `inner_loop`
                refuses an argument.
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
            loss_fn: Function that computes the scalar loss, of no argument or of the
                parameters. With `batches` its last argument is the step's slice of
                them: `lambda batch: loss(fmodel(batch.x), batch.y)`.
            steps: Number of steps.
            batches: Data for the steps, a pytree whose leaves have leading axis
                `steps`.
            override: Settings by name, for these steps only; an array of shape
                `[steps]` gives a value for each step.
            grad_callback: Function of the gradients, in place of the one given at the
                beginning.
            params: The parameters from which the loop starts; needed without an
                `fmodel`. Default the newest of the `fmodel`.
            adjoint: How the loop is differentiated, see `jmeta.adjoint`.

        Returns:
            The parameters after the last step. An `fmodel` keeps those of all times.

        Raises:
            TypeError: `loss_fn` is a loss and no function, or takes other arguments.
            ValueError: The loss does not depend on the parameters, or `inner_loop`
                refuses an argument.
            RuntimeError: Another thread is in a step of the same optimizer or model.
        """
        return self._train(
            loss_fn, steps, batches, override, grad_callback, params, adjoint
        )

    def _train(self, *args):
        with self._thread_guard.held():
            return self._train_unguarded(*args)

    def _train_unguarded(
        self, loss_fn, steps, batches, override, grad_callback, params, adjoint
    ):
        validate.adjoint("adjoint", adjoint)
        check_options(None, override, grad_callback)
        if params is None:
            params = self._fast_params()
        validate.floats("params", params, use="They are what the step starts from.")
        hyperparams = self._override | values_by_label(override, self._labels)
        state = None if self._fmodel is None else self._fmodel.state
        run = inner_loop(
            pure_loss(loss_fn, self._fmodel, batches is not None),
            params,
            self.tx,
            steps,
            batches=batches,
            hyperparams=_count_from(hyperparams, self._steps),
            opt_state=self.opt_state,
            state=state,
            grad_callback=grad_callback or self._grad_callback,
            adjoint=adjoint,
            history=self._track_higher_grads and self._fmodel is not None,
        )
        if not self._track_higher_grads:
            run = jax.lax.stop_gradient(run)
        if self._fmodel is not None:
            self._fmodel._take_over(run, steps)
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


def _count_from(hyperparams, first):
    """Let callables `step -> value` count on, since every loop begins at step 0."""

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
    """Make a differentiable optimizer from a transform.

    Args:
        tx: `jmeta.optim.*` or any optax transform.
        params: The values that it trains: any pytree of float arrays, which may be
            inputs or images. Only the optimizer's state is made from it, so arrays of
            the same shapes will do.
        fmodel: The model that it trains, made by `monkeypatch`. Without one every
            `step` is handed the parameters.
        opt_state: Optimizer state from which to go on. Default `tx.init(params)`.
        device: A `jax.Device` or sharding on which to put the optimizer's state.
        override: Settings by name, for all steps: a list of one value, or of one value
            for each parameter group, in the order in which the groups were given; or
            any value that `hyperparams` of `inner_loop` takes.
        grad_callback: Function of the gradients that gives the gradients for the
            transform, such as clipping.
        track_higher_grads: With False, for evaluation, every step's results are cut
            from the gradient and only the newest parameters are kept.

    Returns:
        The optimizer, whose `step` and `run` train the parameters.

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
    """Make a differentiable optimizer from a factory and its arguments.

    Args:
        opt_type: The factory of the transform, such as `jmeta.optim.sgd`.
        opt_kwargs: The factory's keyword arguments by name. Default none.
        params: The values that it trains, any pytree of float arrays. Default those of
            the `fmodel`.
        fmodel: The model that it trains, made by `monkeypatch`. Without one every
            `step` is handed the parameters.
        device: A `jax.Device` or sharding on which to put the optimizer's state.
        override: Settings by name, for all steps: a list of one value, or of one value
            for each parameter group, in the order in which the groups were given; or
            any value that `hyperparams` of `inner_loop` takes.
        grad_callback: Function of the gradients that gives the gradients for the
            transform, such as clipping.
        track_higher_grads: With False, for evaluation, every step's results are cut
            from the gradient and only the newest parameters are kept.

    Returns:
        The optimizer, whose `step` and `run` train the parameters.

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
        _make_transform(opt_type, kwargs),
        params,
        fmodel,
        device=device,
        override=override,
        grad_callback=grad_callback,
        track_higher_grads=track_higher_grads,
    )


def _make_transform(opt_type, kwargs):
    """Call the factory, and refuse arguments that it does not take."""
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
