"""A model with fast parameters: called like a module, pure for JAX."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.tree import strongly_typed
from jmeta._core.typing import PyTree
from jmeta._loop import checks
from jmeta._loop.inner_loop import Run
from jmeta.higher._options import check_device, check_model
from jmeta.higher._thread_guard import ThreadGuard
from jmeta.models.functional import make_functional


class FunctionalModel:
    """A model that keeps its parameters after every update; made by `monkeypatch`.

    `fmodel(x)` uses the newest parameters. Inside the loss of a step it uses those that
    are being differentiated. `fmodel(x, params=p)` uses `p` and leaves the history as
    it is.

    To replace one weight, set a new tree, here of an nnx or linen model:

        fast = fmodel.fast_params
        fmodel.fast_params = {**fast, "head": {**fast["head"], "kernel": kernel}}

    To call a submodule, make a function of it:

        encode, _ = make_functional(model.encoder)
        encode(fmodel.fast_params["encoder"], x)

    Attributes:
        apply_fn: The pure function, `apply_fn(params[, state], *args, **kwargs)`.
        state: The mutable state (BatchNorm statistics), None without one. The calls in
            the loss of a step update it one after the other; calls outside a step only
            read it. Like torch's buffers it carries no gradient. To update it by hand:
            `outputs, fmodel.state = fmodel.apply_fn(fmodel.fast_params, fmodel.state,
            x)`.

    Note:
        If the model has a state, the loss of a step cannot call `fmodel` inside a
        `jax.vmap`, `jax.jit` or `jax.lax.scan` of its own, since the new state could
        not leave it. Call `apply_fn` there.
    """

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: PyTree,
        state: PyTree = None,
        *,
        track_higher_grads: bool = True,
    ):
        self.apply_fn = apply_fn
        self.state = state
        self._track_higher_grads = track_higher_grads
        # One entry for each time, a function that gives the parameters of that time.
        self._history: list[Callable[[], PyTree]] = [lambda: params]
        self._differentiated: _DifferentiatedParams | None = None
        self._thread_guard = ThreadGuard()

    def __call__(self, *args: Any, params: PyTree = None, **kwargs: Any) -> Any:
        """Apply the model; all arguments but `params` are passed on."""
        params = self.fast_params if params is None else params
        if self.state is None:
            return self.apply_fn(params, *args, **kwargs)
        outputs, state = self.apply_fn(params, self.state, *args, **kwargs)
        # Only a step may change the state: a call that evaluates must leave it alone.
        if self._differentiated is not None:
            self.state = jax.lax.stop_gradient(state)
        return outputs

    @property
    def track_higher_grads(self) -> bool:
        """Whether the parameters of every time are kept."""
        return self._track_higher_grads

    @property
    def fast_params(self) -> PyTree:
        """The newest parameters; setting them adds an entry to the history."""
        return self.parameters()

    @fast_params.setter
    def fast_params(self, params: PyTree) -> None:
        validate.floats("fast_params", params)
        params = strongly_typed(params)
        _check_same_tree(params, self.fast_params)
        self._append([lambda: params])

    @property
    def init_fast_params(self) -> PyTree:
        """The parameters at time 0."""
        return self.parameters(time=0)

    def parameters(self, time: int | None = None) -> PyTree:
        """The parameters after `time` updates.

        Args:
            time: Number of updates: 0 for the initial parameters; negative numbers
                count from the end; None stands for the newest.

        Returns:
            The parameters, a pytree.

        Raises:
            TypeError: `time` is no integer.
            ValueError: An earlier time is asked for without `track_higher_grads`.
            IndexError: There is no such time.

        Note:
            JAX cannot differentiate by a value inside a computation, as
            `autograd.grad(loss, fmodel.parameters(time=t))` does in torch. Pass zeros
            as `perturbations` to `inner_loop` and differentiate by them.
        """
        time = -1 if time is None else time
        validate.count("time", time, minimum=None)
        if not self._track_higher_grads and time != -1:
            raise ValueError(
                "With `track_higher_grads=False` only the newest parameters are kept,"
                f" `time=-1`; got `time={time}`. Keep a copy of earlier ones, or set"
                " `track_higher_grads=True`."
            )
        checks.time(time, len(self._history))
        if self._differentiated is not None and time in (-1, len(self._history) - 1):
            return self._differentiated.read()
        return self._history[time]()

    def _append(self, times: list[Callable[[], PyTree]]) -> None:
        """Add to the history, or replace it where only the newest is kept."""
        if self._differentiated is not None:
            raise RuntimeError(
                "The parameters are being differentiated, so they cannot be set inside"
                " the loss of a step; pass `fmodel(x, params=...)` there."
            )
        if not self._track_higher_grads:
            self._history, times = [], times[-1:]
        self._history += times

    def _take_over(self, run: Run, steps: int) -> None:
        """Continue from the state and the parameters that an inner loop gives."""
        self.state = run.state
        if run.history is None:
            self._append([lambda: run.params] * steps)
        else:
            # Each entry slices the loop's history only when it is asked for, so that a
            # long loop costs nothing here.
            self._append(
                [functools.partial(run.parameters, t + 1) for t in range(steps)]
            )

    @contextlib.contextmanager
    def _differentiating(
        self, params: PyTree, state: PyTree
    ) -> Iterator["_DifferentiatedParams"]:
        """Use these parameters and this state while a loss is computed."""
        before = self._differentiated, self.state
        self._differentiated, self.state = _DifferentiatedParams(params), state
        try:
            yield self._differentiated
        finally:
            self._differentiated, self.state = before


class _DifferentiatedParams:
    """The parameters by which a loss is being differentiated.

    Attributes:
        params: The parameters, traced by JAX.
        was_read: Whether the loss has read them.
        thread: The thread that computes the loss, the only one that may read them.
    """

    def __init__(self, params: PyTree):
        self.params = params
        self.was_read = False
        self.thread = threading.get_ident()

    def read(self) -> PyTree:
        if self.thread != threading.get_ident():
            raise RuntimeError(
                "`fmodel` must be read by one thread at a time; got a call while"
                " another one differentiates a loss of its parameters. Give each its"
                " own, or hold a `threading.Lock` around `step` and the call."
            )
        self.was_read = True
        return self.params


def monkeypatch(
    model: Any,
    *,
    device: Any = None,
    copy_initial_weights: bool = True,
    track_higher_grads: bool = True,
) -> FunctionalModel:
    """Make a model with fast parameters, which steps replace; `model` stays as it is.

    Args:
        model: A Flax nnx module, `(linen module, variables)`, `(apply_fn, params)` or
            `(apply_fn, params, state)`, as `make_functional` gives them.
        device: A `jax.Device` or sharding on which to put parameters and state.
        copy_initial_weights: Cut the initial parameters from the gradient. MAML needs
            False, with which the gradient reaches what `params` was made from.
        track_higher_grads: Keep the parameters of every time. With False only the
            newest are kept.

    Returns:
        The model with fast parameters.

    Raises:
        TypeError: `model` is none of these, or another argument is of the wrong kind.

    Example:
        >>> import jax.numpy as jnp
        >>> fmodel = monkeypatch((lambda params, x: params * x, jnp.array(2.0)))
        >>> fmodel.fast_params = jnp.array(3.0)
        >>> [float(fmodel.parameters(time=t)) for t in (0, 1)], float(fmodel(10.0))
        ([2.0, 3.0], 30.0)
    """
    check_model(model)
    check_device(device)
    validate.flag("copy_initial_weights", copy_initial_weights)
    validate.flag("track_higher_grads", track_higher_grads)
    apply_fn, params, state = _function_params_state(model)
    validate.function("model", apply_fn, use="Its first entry is `apply_fn`.")
    validate.arrays("model", params, use="Its second entry is `params`.")
    params, state = jax.device_put(strongly_typed((params, state)), device)
    if copy_initial_weights:
        params = jax.lax.stop_gradient(params)
    return FunctionalModel(
        apply_fn,
        params,
        jax.lax.stop_gradient(state),
        track_higher_grads=track_higher_grads,
    )


def _function_params_state(model: Any) -> tuple[Any, ...]:
    """A model in any of its forms as apply function, parameters and state or None."""
    if isinstance(model, FunctionalModel):
        raise TypeError(
            "`model` has fast parameters already; pass what it was made of, or"
            " `(fmodel.apply_fn, fmodel.fast_params)` to go on from them."
        )
    if not isinstance(model, tuple | list):
        parts = make_functional(model)
    elif len(model) == 2:
        validate.arrays("model", model[1], use="Its second entry is `params`.")
        parts = make_functional(*model)
    elif len(model) == 3 and callable(model[0]):
        parts = model
    else:
        raise TypeError(
            "`model` must be an nnx module, `(linen module, variables)`, `(apply_fn,"
            f" params)` or `(apply_fn, params, state)`; got {len(model)} entries."
        )
    return tuple(parts) if len(parts) == 3 else (*parts, None)


def _check_same_tree(params, before):
    """Refuse parameters whose tree or shapes differ from those before."""
    if jax.tree.structure(params) != jax.tree.structure(before):
        raise ValueError(
            "`fast_params` must be a tree like the parameters before; got"
            f" {jax.tree.structure(params)}, expected {jax.tree.structure(before)}."
        )
    pairs = zip(tree_leaves_with_path(params), jax.tree.leaves(before), strict=True)
    for (path, leaf), old in pairs:
        if leaf.shape != old.shape:
            raise ValueError(
                "`fast_params` must be a tree like the parameters before; got shape"
                f" {leaf.shape} at the leaf {keystr(path)!r}, expected {old.shape}."
            )
