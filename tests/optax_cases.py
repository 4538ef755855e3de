"""Optax's transforms, each as a function of a rate, and a loss with zero gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import jmeta
from jmeta.optim._finite.update_guard import accepted_extras

Make = Callable[[Any], optax.GradientTransformation]
STEPS = 4

ALIASES = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad"
    " fromage lamb lars lion nadam nadamw noisy_sgd novograd optimistic_adam_v2"
    " optimistic_gradient_descent polyak_sgd radam rmsprop rprop sgd sign_sgd signum"
    " sm3 yogi"
).split()
SCALES = (
    "adadelta adam adamax adan amsgrad belief distance_over_gradients factored_rms"
    " lion novograd optimistic_gradient param_block_norm param_block_rms radam rms"
    " rss sign sm3 stddev trust_ratio yogi"
).split()
CONTRIB = (
    "acprop ademamix adopt cocob dadapt_adamw dog dowg madgrad momo momo_adam muon"
    " prodigy schedule_free_adamw schedule_free_sgd simplified_ademamix"
).split()


def alias(make: Callable[..., Any], **settings: Any) -> Make:
    return lambda lr: make(lr, **settings)


def scaled(make: Callable[..., Any], *args: Any, **settings: Any) -> Make:
    """A part of an optimizer, with a rate after it."""
    return lambda lr: optax.chain(make(*args, **settings), optax.scale(-lr))


def around_adam(wrap: Callable[[Any], Any]) -> Make:
    return lambda lr: wrap(optax.adam(lr))


MAKERS: dict[str, Make] = {
    **{name: alias(getattr(optax, name)) for name in ALIASES},
    "noisy_sgd": alias(optax.noisy_sgd, key=0),
    "adafactor (factored)": alias(optax.adafactor, min_dim_size_to_factor=2),
    "lbfgs (linesearch=None)": alias(optax.lbfgs, linesearch=None, memory_size=2),
    **{f"scale_by_{n}": scaled(getattr(optax, f"scale_by_{n}")) for n in SCALES},
    "adaptive_grad_clip": scaled(optax.adaptive_grad_clip, 0.1),
    "centralize": scaled(optax.centralize),
    "clip": scaled(optax.clip, 0.1),
    "clip_by_block_rms": scaled(optax.clip_by_block_rms, 0.1),
    "clip_by_global_norm": scaled(optax.clip_by_global_norm, 0.1),
    "normalize_by_update_norm": scaled(optax.normalize_by_update_norm),
    "add_noise": scaled(optax.add_noise, 0.1, 0.5, 0),
    "MultiSteps(adam)": around_adam(
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation()
    ),
    "apply_if_finite(adam)": around_adam(lambda tx: optax.apply_if_finite(tx, 2)),
    "chain(clip_by_global_norm, adam)": around_adam(
        lambda tx: optax.chain(optax.clip_by_global_norm(0.1), tx)
    ),
    "inject_hyperparams(adam)": lambda lr: optax.inject_hyperparams(optax.adam)(lr),
    "masked(adam)": around_adam(lambda tx: optax.masked(tx, {"a": True, "b": False})),
    "named_chain(adam)": around_adam(lambda tx: optax.named_chain(("adam", tx))),
    "partition(adam, radam)": lambda lr: optax.partition(
        {"a": optax.adam(lr), "b": optax.radam(lr)}, {"a": "a", "b": "b"}
    ),
    "adam (schedule)": lambda lr: optax.adam(
        lambda count: lr * optax.cosine_decay_schedule(1.0, STEPS)(count)
    ),
    **{f"contrib.{name}": alias(getattr(contrib, name)) for name in CONTRIB},
    "contrib.galore": alias(contrib.galore),
    "contrib.mechanize(adam)": around_adam(contrib.mechanize),
    "contrib.normalize": scaled(contrib.normalize),
    "contrib.reduce_on_plateau": lambda lr: optax.chain(
        optax.adam(lr), contrib.reduce_on_plateau(patience=1)
    ),
    "contrib.sam": lambda lr: contrib.sam(
        optax.sgd(lr), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2
    ),
    "contrib.schedule_free(adam)": lambda lr: contrib.schedule_free(optax.adam(lr), lr),
    "contrib.split_real_and_imaginary(adam)": around_adam(
        contrib.split_real_and_imaginary
    ),
}
"""Every optimizer that ships with optax, its parts that have a slope, its wrappers."""


def arguments(dtype: Any) -> dict[str, Any]:
    """What the hypergradient is taken by: a rate and initial weights."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype), {"lr": 0.05, "params": weights}
    )


MASKS = {
    # as of embeddings of words that do not occur, and a layer of dead units
    "some": {"a": np.array([[1.0], [0.0], [1.0]]), "b": np.zeros(4)},
    "all": {"a": np.zeros((3, 1)), "b": np.zeros(4)},
}
"""Gradients are exactly 0 where a mask is."""


def objective(mask: Any, params: Any) -> jax.Array:
    """Curved, and what is not masked is coupled."""
    terms = jax.tree.map(lambda p, m: m * ((p - 0.7) ** 2 + jnp.cos(p)), params, mask)
    seen = mask["a"] * params["a"]
    return sum(map(jnp.sum, jax.tree.leaves(terms))) + jnp.sum(
        jnp.sin(seen.sum(0)) ** 2
    )


def meta_loss(make: Make, adjoint: Any, mask: Any, args: dict[str, Any]) -> jax.Array:
    """Loss after a few steps with `make(lr)`."""
    run = jmeta.inner_loop(
        lambda params: objective(mask, params),
        args["params"],
        make(args["lr"]),
        STEPS,
        adjoint=adjoint,
    )
    return outer(run.params)


def plain_loss(make: Make, mask: Any, args: dict[str, Any]) -> jax.Array:
    """The same by JAX and optax alone."""
    tx = make(args["lr"])

    def step(carry, _):
        params, state = carry
        value_fn = lambda params: objective(mask, params)
        value, grads = jax.value_and_grad(value_fn)(params)
        extras = {"value": value, "grad": grads, "value_fn": value_fn}
        extras = accepted_extras(tx, extras)
        updates, state = tx.update(grads, state, params, **extras)
        return (optax.apply_updates(params, updates), state), None

    start = args["params"], tx.init(args["params"])
    (params, _), _ = jax.lax.scan(step, start, length=STEPS)
    return outer(params)


def outer(params: Any) -> jax.Array:
    terms = [jnp.sum((p - 0.2) ** 2 + p) for p in jax.tree.leaves(params)]
    return jnp.stack(terms).sum()
