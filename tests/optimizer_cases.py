"""Training runs of jmeta.optim as torch's were recorded, as compiled functions.

A function is compiled once for each optimizer, its flags and the problem; settings,
initial parameters, optimizer state and the time of judging are arguments, so that all
cases that differ in those share it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Unroll
from tests.helpers import F64_DIFFERENCE, assert_trees_close
from tests.reference.read import case

STEPS = 12
FLAGS = ("amsgrad", "centered", "decoupled_weight_decay", "maximize", "nesterov")


class Problem(NamedTuple):
    """A recorded problem, with its parameters as one vector.

    One leaf compiles in a third of the time of four; what parameters in a tree need
    is tested with groups, frozen leaves and the corner cases.

    Attributes:
        start: Initial parameters, `[N]`.
        tree: The vector as torch's parameters by name.
        inner: Vector to the loss that is trained.
        outer: Vector to the loss that is judged.
    """

    start: jax.Array
    tree: Callable[[jax.Array], dict[str, jax.Array]]
    inner: Callable[[jax.Array], jax.Array]
    outer: Callable[[jax.Array], jax.Array]


def network(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The recorded network, torch's names and layout, `[N, 3] -> [N, 2]`."""
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return hidden @ params["2.weight"].T + params["2.bias"][None]


def mlp_loss(params: dict[str, Any], split: str = "") -> jax.Array:
    """Mean squared error on the training data, or with `"_val"` on the others."""
    data = case("problems", "mlp")
    return jnp.mean((network(params, data["x" + split]) - data["y" + split]) ** 2)


def _rosenbrock(params):
    x, y = params["xy"]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_outer(params):
    x, y = params["xy"]
    return (x - 1) ** 2 + 0.5 * (y - 1) ** 2


def _zero_gradient(params):
    c = case("problems", "zero_gradient")["c"]
    quadratic = jnp.sum((params["x"] - 1) ** 2) + jnp.sum(c * params["b"] ** 2)
    return 0.5 * quadratic + 0.0 * jnp.sum(params["z"])


def _zero_gradient_outer(params):
    near = jnp.sum((params["b"] - 0.3) ** 2) + jnp.sum((params["z"] - 0.1) ** 2)
    return jnp.sum((params["x"] - 0.5) ** 2) + 0.5 * near


LOSSES = {
    "mlp": (mlp_loss, functools.partial(mlp_loss, split="_val")),
    "rosenbrock": (_rosenbrock, _rosenbrock_outer),
    "zero_gradient": (_zero_gradient, _zero_gradient_outer),
}


@functools.cache
def problem(name: str) -> Problem:
    """A recorded problem by its name."""
    start, tree = ravel_pytree(dict(case("problems", name)["params"]))
    inner, outer = LOSSES[name]
    return Problem(start, tree, lambda w: inner(tree(w)), lambda w: outer(tree(w)))


def ravel(params: dict[str, Any]) -> jax.Array:
    """torch's parameters by name as the vector of `Problem`."""
    return ravel_pytree(dict(params))[0]


def flags(kwargs: dict[str, Any]) -> tuple[str, ...]:
    """The flags that are set: what a compiled function depends on."""
    return tuple(name for name in FLAGS if kwargs.get(name))


def transform(optimizer: str, flags: tuple[str, ...] = ()) -> Any:
    """Our transform by torch's name, its numeric settings at their defaults."""
    # nesterov is refused without a momentum, which each run overrides
    momentum = {"momentum": 0.5} if "nesterov" in flags else {}
    make = getattr(jmeta.optim, optimizer.lower())
    return make(**dict.fromkeys(flags, True), **momentum)


class Result(NamedTuple):
    """What a compiled run gives.

    Attributes:
        outer: The outer loss.
        run: The `Run` of all steps.
        d_settings: Its derivatives by setting.
        d_params: Its gradient in the initial parameters, `[N]`.
    """

    outer: jax.Array
    run: Any
    d_settings: dict[str, Any]
    d_params: jax.Array


@functools.cache
def hypergradient(
    problem_name: str,
    optimizer: str,
    flags: tuple[str, ...] = (),
    adjoint: Any = Unroll(),  # noqa: B008 (frozen, without state)
    judge: str = "history",
    clip: bool = False,
) -> Callable[..., Result]:
    """A training run with the derivatives of its outer loss, compiled.

    Args:
        problem_name: See `LOSSES`.
        optimizer: torch's name.
        flags: Those that are set.
        adjoint: How to differentiate.
        judge: Where the outer loss is taken: `"history"` at a time, `"ax"` at ASGD's
            average after `time` active steps.
        clip: Clip the gradients' norm, with torch's formula.

    Returns:
        `(time, settings, params, opt_state, max_norm) -> Result`.
    """
    task, tx = problem(problem_name), transform(optimizer, flags)

    @jax.jit
    def evaluate(time, settings, params, opt_state, max_norm):
        def outer(settings, params):
            run = jmeta.inner_loop(
                task.inner,
                params,
                tx,
                STEPS,
                hyperparams=settings,
                opt_state=opt_state,
                grad_callback=functools.partial(clip_grad_norm, max_norm=max_norm)
                if clip
                else None,
                adjoint=adjoint,
                history=judge == "history",
                active=None if judge == "history" else time,
            )
            judged = run.opt_state.ax if judge == "ax" else run.history[time]
            return task.outer(judged), run

        (value, run), grads = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(
            settings, params
        )
        return Result(value, run, *grads)

    def call(
        time: int,
        settings: dict[str, Any],
        params: jax.Array | None = None,
        opt_state: Any = None,
        max_norm: float = np.inf,
    ) -> Result:
        params = task.start if params is None else params
        opt_state = tx.init(params) if opt_state is None else opt_state
        return evaluate(time, floats(settings), params, opt_state, max_norm)

    return call


def clip_grad_norm(grads: Any, max_norm: jax.typing.ArrayLike) -> Any:
    """torch's clip_grad_norm_, with a finite derivative where all gradients are 0."""
    squares = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    factor = jnp.minimum(1.0, max_norm / (norm + 1e-6))
    return jax.tree.map(lambda g: factor * g, grads)


def floats(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as floats: some are recorded as integers, which have no derivative."""
    return {k: jax.tree.map(float, v) for k, v in settings.items()}


def assert_hypergradients(result: Result, row: dict[str, Any], **names: str) -> None:
    """Compare with a recorded case: to 1e-6, plus 1e-11 of the outer loss.

    Args:
        result: What was computed.
        row: The recorded case.
        **names: Parts of `row` in place of `outer`, `d_settings`, `d_params`.
    """
    outer = row[names.get("outer", "outer")]
    atol = 1e-11 * abs(outer)
    d_settings = row[names.get("d_settings", "d_settings")]
    got = {k: result.d_settings[k] for k in d_settings}
    assert_trees_close(result.outer, outer, rtol=1e-10)
    assert_trees_close(got, floats(d_settings), rtol=F64_DIFFERENCE, atol=atol)
    d_params = ravel(row[names.get("d_params", "d_params")])
    assert_trees_close(result.d_params, d_params, rtol=F64_DIFFERENCE, atol=atol)
