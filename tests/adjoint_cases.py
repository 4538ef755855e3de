"""Outer problems of several kinds, small, that every adjoint differentiates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jmeta
from jmeta import ForwardMode, Implicit, Unroll
from tests.cases import PLAIN, mlp, mlp_params

STEPS = 5  # nested blocks, and a step before them
CONVERGED = 250


class Case(NamedTuple):
    """A meta-loss `(adjoint, args) -> scalar`, and a dict of float64 trees."""

    meta_loss: Callable[[Any, Any], jax.Array]
    args: dict[str, Any]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def mse(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


X, Y = (3, 3), (3, 2)


def network(adjoint: Any, args: Any) -> jax.Array:
    """Initial weights, rate and momentum of an MLP."""
    run = jmeta.inner_loop(
        mlp, args["params"], jmeta.optim.sgd(), STEPS, loss_fn=mse,
        batch=(normal(0, *X), normal(1, *Y)), adjoint=adjoint,
        hyperparams={"lr": args["lr"], "momentum": args["momentum"]},
    )  # fmt: skip
    return mse(mlp(run.params, normal(2, *X)), normal(3, *Y))


class ConvNet(nnx.Module):
    """6x6 images, one convolution, batch statistics, pooling, a head."""

    def __init__(self, rngs: nnx.Rngs):
        """Make the layers in float64."""
        kwargs = {"rngs": rngs, "param_dtype": jnp.float64}
        self.conv = nnx.Conv(1, 2, (3, 3), strides=2, **kwargs)
        self.norm = nnx.BatchNorm(2, **kwargs)
        # flax makes the statistics float32 whatever `param_dtype` is
        self.norm.mean = nnx.BatchStat(jnp.zeros(2))
        self.norm.var = nnx.BatchStat(jnp.ones(2))
        self.head = nnx.Linear(2, 2, **kwargs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images `[N, 6, 6, 1]` to scores `[N, 2]`."""
        with jax.numpy_dtype_promotion("standard"):  # flax's norm mixes dtypes
            features = jnp.tanh(self.norm(self.conv(x)))
        return self.head(features.mean(axis=(1, 2)))


def conv_net(adjoint: Any, args: Any) -> jax.Array:
    """Rate, and the scale of the initial weights; statistics are carried along."""
    apply_fn, params, state = jmeta.make_functional(ConvNet(nnx.Rngs(0)))
    params = jax.tree.map(lambda p: args["scale"] * p, params)
    labels = jnp.array([0, 1, 1])
    loss_fn = lambda scores, labels: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    )
    run = jmeta.inner_loop(
        apply_fn, params, jmeta.optim.sgd(), STEPS, loss_fn=loss_fn, state=state,
        batch=(normal(0, 3, 6, 6, 1), labels), hyperparams={"lr": args["lr"]},
        adjoint=adjoint,
    )  # fmt: skip
    # training statistics of other images; the running ones carry no derivative
    scores, _ = apply_fn(run.params, state, normal(1, 3, 6, 6, 1))
    return loss_fn(scores, labels)


def attention_block(params: Any, x: jax.Array) -> jax.Array:
    """Two heads over tokens `[T, 4]`, with a residual and a norm."""
    q, k, v = (jnp.einsum("td,dhk->htk", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k) / jnp.sqrt(2.0))
    mixed = x + jnp.einsum("hts,hsk,hkd->td", weights, v, params["out"])
    centred = mixed - mixed.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def attention(adjoint: Any, args: Any) -> jax.Array:
    """Adam's rate and betas; the inner task predicts the next token."""
    params = {name: 0.5 * normal(i, 4, 2, 2) for i, name in enumerate("qkv")}
    params["out"] = 0.5 * normal(3, 2, 2, 4)
    loss = lambda p, x: mse(attention_block(p, x[:-1]), x[1:])
    run = jmeta.inner_loop(
        loss, params, jmeta.optim.adam(eps=1e-3), STEPS, batch=normal(4, 5, 4),
        hyperparams={"lr": args["lr"], "betas": args["betas"]}, adjoint=adjoint,
    )  # fmt: skip
    return loss(run.params, normal(5, 5, 4))


def learned_loss(adjoint: Any, args: Any) -> jax.Array:
    """The loss is a network of its own, captured by closure."""

    def loss_fn(outputs, targets):
        error = outputs - targets
        hidden = jnp.tanh(error.reshape(-1, 1) @ args["loss"]["in"])
        return jnp.mean(hidden @ args["loss"]["out"]) ** 2 + jnp.mean(error**2)

    run = jmeta.inner_loop(
        mlp, mlp_params(), jmeta.optim.sgd(0.1, 0.5), STEPS, loss_fn=loss_fn,
        batch=(normal(0, *X), normal(1, *Y)), adjoint=adjoint,
    )  # fmt: skip
    return mse(mlp(run.params, normal(2, *X)), normal(3, *Y))


def data_weights(adjoint: Any, args: Any) -> jax.Array:
    """One weight for each training row; a different batch at every step."""
    weights = jax.nn.sigmoid(args["weights"])

    def loss_fn(outputs, targets):
        y, rows = targets
        return jnp.mean(weights[rows] * jnp.mean((outputs - y) ** 2, -1))

    rows = jnp.array([[0, 1], [2, 0], [1, 2], [1, 0], [2, 1]])
    run = jmeta.inner_loop(
        mlp, mlp_params(), jmeta.optim.sgd(0.2, 0.5), STEPS, loss_fn=loss_fn,
        batches=(normal(0, *X)[rows], (normal(1, *Y)[rows], rows)), adjoint=adjoint,
    )  # fmt: skip
    return mse(mlp(run.params, normal(2, *X)), normal(3, *Y))


def distilled(adjoint: Any, args: Any) -> jax.Array:
    """The training inputs and targets, and a rate per step, are learned."""
    run = jmeta.inner_loop(
        mlp, mlp_params(), jmeta.optim.sgd(), STEPS, loss_fn=mse,
        batch=(args["x"], args["y"]), hyperparams={"lr": args["lr"]}, adjoint=adjoint,
    )  # fmt: skip
    return mse(mlp(run.params, normal(2, *X)), normal(3, *Y))


def converged(adjoint: Any, args: Any) -> jax.Array:
    """Weighted robust regression with a penalty, trained to its end."""
    x, y = normal(0, 6, 3), normal(1, 6)

    def objective(w):
        fit = jnp.exp(args["weights"]) * jnp.log(jnp.cosh(x @ w - y))
        return jnp.mean(fit) + 0.5 * jnp.exp(args["decay"]) * jnp.sum(w**2)

    tx = jmeta.optim.sgd(0.3, momentum=0.5)
    start = jnp.zeros(3)
    run = jmeta.inner_loop(objective, start, tx, CONVERGED, adjoint=adjoint)
    return jnp.mean(jnp.cosh(normal(2, 4, 3) @ run.params))


def cases() -> dict[str, Case]:
    """Made inside a test, where float64 is on."""
    scalar = jnp.asarray
    rates = {"lr": scalar(0.3), "momentum": scalar(0.4)}
    loss = {"in": normal(6, 1, 4), "out": normal(7, 4)}
    rate_per_step = jnp.array([0.3, 0.2, 0.1, 0.15, 0.25])
    return {
        "mlp": Case(network, {"params": mlp_params(), **rates}),
        "conv_net": Case(conv_net, {"lr": scalar(0.3), "scale": scalar(1.2)}),
        "attention": Case(
            attention, {"lr": scalar(0.05), "betas": (scalar(0.8), scalar(0.9))}
        ),
        "learned_loss": Case(learned_loss, {"loss": loss}),
        "data_weights": Case(data_weights, {"weights": normal(8, 3)}),
        "distilled": Case(
            distilled,
            {"x": normal(9, 2, 3), "y": normal(10, 2, 2), "lr": rate_per_step},
        ),
        "converged": Case(converged, {"decay": scalar(-1.0), "weights": normal(11, 6)}),
    }


ADJOINTS = {
    "plain": PLAIN,
    "mixed": Unroll(),
    "nested": Unroll(checkpoint="nested"),
    "forward": ForwardMode(),
    "implicit": Implicit(),
}

NAMES = "mlp conv_net attention learned_loss data_weights distilled converged".split()

PAIRS = [
    (name, adjoint)
    for name in NAMES
    for adjoint in ADJOINTS
    # the loops of the others are not trained to their end
    if adjoint != "implicit" or name == "converged"
]
