"""A small meta-problem for `fit`; run as a script, a training that can be killed."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta

STEPS = 40


def meta_params():
    rows = 0.3 * jnp.sin(jnp.arange(6.0)).reshape(2, 3)
    return {"w": rows, "b": jnp.array([[0.1, -0.2, 0.3]])}


def sample(key, tasks=5):
    """Tasks `(x, y)`, `[B, 4, 2]` and `[B, 4, 3]`."""
    x_key, y_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (tasks, 4, 2), minval=-1.0)
    return x, jnp.tanh(x @ jnp.ones((2, 3))) + jax.random.uniform(y_key, (tasks, 1, 3))


def task_loss(params, task, key):
    """A gradient step, from a start with noise, and the loss after it."""
    x, y = task

    def error(params):
        return jnp.mean((jnp.tanh(x @ params["w"] + params["b"]) - y) ** 2)

    noise = 0.01 * jax.random.uniform(key, params["w"].shape)
    params = {**params, "w": params["w"] + noise}
    adapted = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(error)(params))
    return error(adapted), {"before": error(params), "y": y}


def metrics(aux, tasks):
    return {"before": aux["before"].mean(), "same": jnp.mean(aux["y"] == tasks[1])}


def plain_loss(params, task, key):
    return task_loss(params, task, key)[0]


def run(steps: int = STEPS, tx: Any = None, **kwargs: Any) -> jmeta.Fitted:
    """`fit` on the problem, with what differs from these settings."""
    settings: dict[str, Any] = {
        "key": jax.random.key(3),
        "has_aux": True,
        "metrics": metrics,
        "validate": jmeta.Validation(
            task_loss, lambda key: sample(key, 3), every=kwargs.get("save_every", 10)
        ),
        "save_every": 10,
        "log_every": 5,
        "progress": False,
    } | kwargs
    loss = settings.pop("task_loss", task_loss if settings["has_aux"] else plain_loss)
    return jmeta.fit(
        loss,
        settings.pop("meta_params", meta_params()),
        tx or optax.adam(0.01),
        settings.pop("sample", sample),
        steps,
        **settings,
    )


def main(out: str, steps: str, directory: str | None = None) -> None:
    fitted = run(int(steps), directory=directory, save_every=10, log_every=5)
    leaves = jax.tree.leaves((fitted.params, fitted.opt_state, fitted.best_params))
    np.savez(out, *leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
