"""Tables that several test modules run over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import Unroll

PLAIN = Unroll(mixed=False, checkpoint=None)
"""What JAX does by itself; the reference of every other setting."""

UNROLLS = [
    Unroll(mixed=mixed, checkpoint=checkpoint)
    for mixed in (True, False)
    for checkpoint in (None, "step", "nested")
] + [
    Unroll(unroll=2),
    Unroll(checkpoint="nested", unroll=2),
    Unroll(mixed=False, unroll=3),
]
"""Exact settings: they differ in what is stored and how, not in a digit."""

STEPS = 6


class Problem(NamedTuple):
    """An outer loss and all that it can be differentiated by.

    Attributes:
        meta_loss: `(adjoint, steps, args) -> scalar`.
        args: A dict of float64 trees.
    """

    meta_loss: Callable[[Any, int, dict[str, Any]], jax.Array]
    args: dict[str, Any]


def quadratic(adjoint: Any, steps: int, args: dict[str, Any]) -> jax.Array:
    """Heavy ball on `0.5 curvature (w - center)^2`, with a learned curvature."""

    def objective(w, center):
        return 0.5 * jnp.sum(args["curvature"] * (w - center) ** 2)

    run = jmeta.inner_loop(
        objective,
        args["params"],
        jmeta.optim.sgd(),
        steps,
        batch=args["center"],
        hyperparams={"lr": args["lr"], "momentum": args["momentum"]},
        adjoint=adjoint,
    )
    return outer(run.params)


def quadratic_closed_form(steps: int, args: dict[str, Any]) -> jax.Array:
    """The same from powers of the matrix that takes (w - center, buffer) one step on.

    buffer' = momentum buffer + a (w - center) and w' = w - lr buffer', for each
    entry; the first buffer is the gradient, which a buffer of 0 before says too.
    """

    def entry(w, a, center):
        m, lr = args["momentum"], args["lr"]
        step = jnp.array([[1 - lr * a, -lr * m], [a, m]])
        power = jnp.linalg.matrix_power(step, steps)
        return center + power[0, 0] * (w - center)

    return outer(jax.vmap(entry)(args["params"], args["curvature"], args["center"]))


def outer(w: jax.Array) -> jax.Array:
    """A scalar whose gradient differs from entry to entry; quick to compile."""
    return jnp.sum((w + w**3) * jnp.arange(1.0, w.size + 1))


def mlp(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """tanh network, `[N, 3] -> [N, 2]`."""
    hidden = jnp.tanh(x @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


def mlp_params(seed: int = 0, hidden: int = 4) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (3, hidden), "b1": (hidden,), "w2": (hidden, 2), "b2": (2,)}
    return {k: jnp.asarray(rng.normal(size=s) * 0.7) for k, s in shapes.items()}


def network(adjoint: Any, steps: int, args: dict[str, Any]) -> jax.Array:
    """An MLP with state, aux, history, batches, a learned loss, rates per step."""

    def apply_fn(params, state, x):
        scale = 1 + 0.1 * state["count"]
        return scale * mlp(params, x), {"count": state["count"] + 1}

    def loss_fn(outputs, targets):
        loss = jnp.mean(args["weight"][None] * (outputs - targets) ** 2)
        return loss, {"size": jnp.mean(outputs**2), "rows": outputs.shape[0]}

    run = jmeta.inner_loop(
        apply_fn,
        args["params"],
        jmeta.optim.sgd(momentum=0.5, weight_decay=0.1, nesterov=True),
        steps,
        loss_fn=loss_fn,
        batches=jax.tree.map(lambda x: x[:steps], (args["x"], args["y"])),
        hyperparams={"lr": args["lr"][:steps], "momentum": args["momentum"]},
        state={"count": 0.0},
        has_aux=True,
        history=True,
        adjoint=adjoint,
    )
    trained = outer(jnp.concatenate([p.ravel() for p in jax.tree.leaves(run.params)]))
    # which step is which matters
    times = jnp.arange(1.0, steps + 1)
    path = jnp.sum(run.history["w1"] ** 2, axis=(1, 2)) @ jnp.arange(1.0, steps + 2)
    return trained + path + times @ run.losses**2 + times @ run.aux["size"] ** 2


def problems() -> dict[str, Problem]:
    """Made inside a test, where float64 is on."""
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape))
    positive = lambda *shape: jnp.asarray(rng.uniform(0.5, 1.5, size=shape))
    return {
        "quadratic": Problem(
            quadratic,
            {
                "params": normal(3),
                "curvature": positive(3),
                "center": normal(3),
                "lr": jnp.asarray(0.3),
                "momentum": jnp.asarray(0.4),
            },
        ),
        "network": Problem(
            network,
            {
                "params": mlp_params(),
                "x": normal(STEPS, 5, 3),
                "y": normal(STEPS, 5, 2),
                "weight": positive(2),
                "lr": 0.1 * positive(STEPS),
                "momentum": jnp.asarray(0.5),
            },
        ),
    }


TRANSFORMS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.5),
    "adam": lambda: optax.adam(0.1, eps=1e-3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1, eps=1e-3),
    "chain": lambda: optax.chain(optax.clip(0.5), jmeta.optim.sgd(0.1, 0.5)),
    "named_chain": lambda: optax.named_chain(
        ("decay", optax.add_decayed_weights(0.1)), ("sgd", jmeta.optim.sgd(0.1))
    ),
    "partition": lambda: optax.partition(
        {"body": jmeta.optim.sgd(0.1, 0.5), "head": jmeta.optim.adam(0.1, eps=1e-3)},
        {"w1": "body", "b1": "body", "w2": "head", "b2": "head"},
    ),
    "schedule": lambda: optax.sgd(optax.linear_schedule(0.2, 0.05, 3)),
    "polyak_sgd": lambda: optax.polyak_sgd(max_learning_rate=0.3),
    "lbfgs": lambda: optax.lbfgs(0.1, memory_size=2, linesearch=None),
    "reduce_on_plateau": lambda: optax.chain(
        jmeta.optim.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)
    ),
    "multi_steps": lambda: optax.MultiSteps(
        jmeta.optim.adam(0.1, eps=1e-3), 2
    ).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(jmeta.optim.sgd(0.1, 0.5), 2),
    "add_noise": lambda: optax.chain(optax.add_noise(0.1, 0.1, 0), optax.sgd(0.1)),
}
"""Transforms that a loop must drive and differentiate; made where float64 is on."""
