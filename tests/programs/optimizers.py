"""The optimizers of the programs, as source text, two of them written out by hand."""

from typing import NamedTuple


class Optimizer(NamedTuple):
    """A constructor with places for two settings.

    Attributes:
        source: With `LR` and perhaps `SECOND` for their values.
        second: Name and value of the other setting; the value is a number or a pair.
        lr_name: What an override of the rate is called; None where there is none, so
            that only the constructor can be given one.
        by_hand: The rule written out, in place of `tx.update` in the reference.
    """

    source: str
    second: tuple[str, str] | None = None
    lr_name: str | None = "lr"
    by_hand: str | None = None


SGD_BY_HAND = """\
def update(theta, t, grads, memory, params):
    # SGD with momentum and weight decay, written out
    s = settings(theta, t)
    rates = per_leaf(s["lr"], params)
    buffers = jax.tree.map(jnp.zeros_like, params) if memory is None else memory
    grads = jax.tree.map(lambda g, p: g + 0.1 * p, grads, params)
    buffers = jax.tree.map(lambda b, g: s["momentum"] * b + g, buffers, grads)
    new = jax.tree.map(lambda p, b, lr: p - lr * b, params, buffers, rates)
    return new, buffers
"""

ADAM_BY_HAND = """\
def update(theta, t, grads, memory, params):
    # Adam, written out
    s = settings(theta, t)
    rates, (b1, b2) = per_leaf(s["lr"], params), s["betas"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    m, v, n = (zeros, zeros, 0) if memory is None else memory
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, grads)
    c1, c2 = 1 - b1 ** (n + 1), 1 - b2 ** (n + 1)
    new = jax.tree.map(
        lambda p, m, v, lr: p - lr * m / c1 / (jnp.sqrt(v / c2) + 1e-3),
        params, m, v, rates,
    )
    return new, (m, v, n + 1)
"""

OPTIMIZERS = {
    "sgd": Optimizer(
        "jmeta.optim.sgd(lr=LR, momentum=SECOND, weight_decay=0.1)",
        ("momentum", "0.5"),
        by_hand=SGD_BY_HAND,
    ),
    "adam": Optimizer(
        "jmeta.optim.adam(lr=LR, betas=SECOND, eps=1e-3)",
        ("betas", "(0.8, 0.95)"),
        by_hand=ADAM_BY_HAND,
    ),
    "nesterov": Optimizer(
        "jmeta.optim.sgd(lr=LR, momentum=SECOND, nesterov=True)", ("momentum", "0.4")
    ),
    "adamw": Optimizer(
        "jmeta.optim.adamw(lr=LR, weight_decay=SECOND, eps=1e-3, amsgrad=True)",
        ("weight_decay", "0.2"),
    ),
    "rmsprop": Optimizer(
        "jmeta.optim.rmsprop(lr=LR, alpha=SECOND, momentum=0.3, eps=1e-2)",
        ("alpha", "0.8"),
    ),
    "adagrad": Optimizer(
        "jmeta.optim.adagrad(lr=LR, lr_decay=SECOND, eps=1e-2)", ("lr_decay", "0.1")
    ),
    "adadelta": Optimizer(
        "jmeta.optim.adadelta(lr=LR, rho=SECOND, eps=1e-2)", ("rho", "0.7")
    ),
    "nadam": Optimizer(
        "jmeta.optim.nadam(lr=LR, momentum_decay=SECOND, eps=1e-2)",
        ("momentum_decay", "0.1"),
    ),
    "asgd": Optimizer("jmeta.optim.asgd(lr=LR, lambd=SECOND)", ("lambd", "0.1")),
    "chain": Optimizer(
        "optax.chain(optax.clip(0.8), jmeta.optim.sgd(lr=LR, momentum=SECOND))",
        ("momentum", "0.3"),
    ),
    "inject": Optimizer(
        "optax.inject_hyperparams(optax.adam)(learning_rate=LR, b1=SECOND, eps=1e-2)",
        ("b1", "0.7"),
        lr_name="learning_rate",
    ),
    "optax_sgd": Optimizer(
        "optax.sgd(LR, momentum=SECOND)", ("momentum", "0.5"), lr_name=None
    ),
    "optax_adam": Optimizer(
        "optax.chain(optax.clip_by_global_norm(0.9), optax.adam(LR, eps=1e-2))",
        lr_name=None,
    ),
    "optax_rmsprop": Optimizer(
        "optax.chain(optax.add_decayed_weights(SECOND), optax.rmsprop(LR, eps=1e-2))",
        ("weight_decay", "0.2"),
        lr_name=None,
    ),
    "optax_yogi": Optimizer("optax.yogi(LR, eps=1e-2)", lr_name=None),
    "multi_steps": Optimizer(
        "optax.MultiSteps(optax.sgd(LR), 2).gradient_transformation()", lr_name=None
    ),
}
