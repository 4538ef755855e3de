"""A task loss from any two objectives."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from jmeta._core import validate
from jmeta._core.key_argument import with_optional_key
from jmeta._core.typing import Key, PyTree
from jmeta._loop import checks
from jmeta._loop.inner_loop import inner_loop
from jmeta.adjoint import Adjoint, Unroll
from jmeta.algorithms import _checks
from jmeta.algorithms._base import Adapted, TaskLoss


def adapted(
    objective: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    outer: Callable[..., Any] | None = None,
    init: Callable[..., PyTree] | None = None,
    hyperparams: Callable[[PyTree], Any] | None = None,
    has_aux: bool = False,
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """Adapt by any objective and evaluate by any other, as in reinforcement learning.

    The other algorithms compare outputs with targets. Here both losses are functions of
    the parameters and of the task, and the task may be anything, such as a level of a
    game with its keys. The losses may be learned, or be energies.

        params = init(meta_params, task)                      or meta_params themselves
        params <- tx on objective(params, task)               `steps` times
        loss   = outer(params, task)                          or the objective again

    Args:
        objective: `objective(params, task) -> loss`, the scalar that the inner loop
            minimises. It gets the key of the step if it has a parameter `key`, and the
            meta-parameters, for a learned loss or discount, if it has a parameter
            `meta_params`.
        tx: The inner optimizer, any optax transform.
        steps: Number of inner steps, from 0.
        outer: `outer(params, task) -> loss`, the scalar meta-loss of the parameters
            after the last step, with the same two optional parameters. Default
            `objective`.
        init: `init(meta_params, task) -> params`, the first parameters. Default all of
            the meta-parameters; pass it to take only a part of them, or to compute the
            parameters from the task.
        hyperparams: `hyperparams(meta_params) -> {name: value}`, the settings of `tx`
            that are learned, in a form that `inner_loop` takes.
        has_aux: Whether `outer` gives `(loss, aux)`; aux becomes `outputs` of the
            result.
        adjoint: How the loop is differentiated.

    Returns:
        `task_loss(meta_params, task, key=None) -> (loss, Adapted)`. Step t of the loop
        gets `fold_in(key, t)`, the outer loss `fold_in(key, steps)`.

    Raises:
        TypeError: An argument of the wrong kind, or a function that takes or gives
            something else.
        ValueError: A loss is no scalar, or does not depend on the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def objective(params, task, meta_params):  # pulled to the task, and to 0
        ...     pull = jnp.exp(meta_params["log_pull"])
        ...     return (params - task) ** 2 + pull * params**2
        >>> task_loss = adapted(
        ...     objective,
        ...     *(jmeta.optim.sgd(lr=0.25), 1),
        ...     outer=lambda params, task: (params - 2 * task) ** 2,
        ...     init=lambda meta_params, task: meta_params["start"],
        ... )
        >>> meta_params = {"start": jnp.array(1.0), "log_pull": jnp.array(0.0)}
        >>> grad, aux = jax.grad(task_loss, has_aux=True)(meta_params, jnp.array(4.0))
        >>> jax.tree.map(float, grad), aux.losses.tolist()
        ({'log_pull': 6.0, 'start': 0.0}, [10.0])
    """
    use = "Pass `objective(params, task)`, which gives a scalar."
    validate.function("objective", objective, use=use)
    validate.transform("tx", tx)
    checks.steps(steps)
    for name, function in (
        ("outer", outer),
        ("init", init),
        ("hyperparams", hyperparams),
    ):
        if function is not None:
            validate.function(name, function, use=_USES[name])
    validate.flag("has_aux", has_aux)
    if has_aux and outer is None:
        raise ValueError(
            "`outer` must be given with `has_aux=True`; got None, and `objective` gives"
            " a loss alone. Pass a function that gives `(loss, aux)`."
        )
    validate.adjoint("adjoint", adjoint)
    inner_objective = _with_optional_arguments("objective", objective)
    if outer is None:
        outer_name, outer_objective = "objective", inner_objective
    else:
        outer_name = "outer"
        outer_objective = _with_optional_arguments(outer_name, outer)

    def task_loss(
        meta_params: PyTree, task: Any, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        _checks.key(key)

        def inner(params: PyTree, key: Key | None = None) -> jax.Array:
            loss = inner_objective(params, meta_params, task, key)
            _checks.scalar("objective", loss)
            return loss

        start = meta_params if init is None else init(meta_params, task)
        options = (
            {} if hyperparams is None else {"hyperparams": hyperparams(meta_params)}
        )
        run = inner_loop(inner, start, tx, steps, key=key, adjoint=adjoint, **options)
        outer_key = None if key is None else jax.random.fold_in(key, steps)
        result = outer_objective(run.params, meta_params, task, outer_key)
        loss, aux = _loss_and_aux(outer_name, result) if has_aux else (result, None)
        _checks.scalar(outer_name, loss)
        return loss, Adapted(aux, run.losses, run.residual)

    return task_loss


_USES = {
    "outer": "Pass `outer(params, task)`, which gives a scalar.",
    "init": "Pass `init(meta_params, task)`, which gives the first parameters.",
    "hyperparams": "Pass `lambda meta_params: {'lr': ...}`.",
}


def _with_optional_arguments(
    name: str, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap a user's function so that it takes a key and meta-parameters in any case.

    The user's function gets each of the two only if it has a parameter of that name.
    """
    takes_meta = "meta_params" in inspect.signature(function).parameters

    def call(params: PyTree, meta_params: PyTree, task: Any, key: Key | None) -> Any:
        named = {"meta_params": meta_params} if takes_meta else {}
        called = with_optional_key(name, functools.partial(function, **named))
        return called(params, task, key=key)

    return call


def _loss_and_aux(name: str, result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            f"`{name}` must give `(loss, aux)` with `has_aux=True`; got"
            f" {validate.kind(result)}. Leave `has_aux` out for a loss alone."
        )
    return result[0], result[1]
