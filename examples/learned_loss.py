"""A learned loss where the plain one is poor, after ML3 (Bechtle et al., 2021).

Curves are fitted to points of which a third lie too high, by up to 4. The squared error
pulls the fit up, the absolute error less. A small network of the residual, captured by
the inner objective, is meta-trained so that 20 steps of descent on it end near the true
curve. On new curves expect a mean squared distance to it of about 0.07, against 0.37
after 20 and 0.21 after 500 steps on the absolute error, and 0.71 on the squared one,
these with the best of five learning rates.

    python examples/learned_loss.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jmeta

POINTS, RATES = 40, (0.03, 0.1, 0.3, 1.0, 3.0)
MODEL, TX = lambda w, x: x @ w, jmeta.optim.sgd()


def features(x):
    """A constant and six waves for a linear model to combine."""
    waves = jnp.outer(x, jnp.arange(1, 4))
    return jnp.hstack([jnp.ones((len(x), 1)), jnp.sin(waves), jnp.cos(waves)])


def sample(key):
    """A random curve: points with errors to fit, points without to judge by."""
    curve_key, x_key, high_key, error_key = jax.random.split(key, 4)
    x = features(jax.random.uniform(x_key, (2 * POINTS,), minval=-3.0, maxval=3.0))
    y = x @ jax.random.normal(curve_key, (7,))
    error = jax.random.uniform(error_key, (POINTS,), maxval=4.0)
    error *= jax.random.bernoulli(high_key, 1 / 3, (POINTS,))
    support = x[:POINTS], y[:POINTS] + error
    return jmeta.Task(support=support, query=(x[POINTS:], y[POINTS:]))


def squared(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def absolute(outputs, targets):
    return jnp.abs(outputs - targets).mean()


def fit(loss_fn, lr, task, steps):
    """The inner loop: from zeros, by descent on any loss. The error on the query."""
    options = {"loss_fn": loss_fn, "batch": task.support, "hyperparams": {"lr": lr}}
    w = jmeta.inner_loop(MODEL, jnp.zeros(7), TX, steps, **options).params
    return squared(task.query[0] @ w, task.query[1])


def meta_train(key, steps, meta_steps):
    """Adam on the error after descent on the loss, over 16 new curves a step."""
    first, last = (nnx.Linear(*n, rngs=nnx.Rngs(0)) for n in ((1, 32), (32, 1)))
    network, params = jmeta.make_functional(nnx.Sequential(first, nnx.softplus, last))
    loss_of = lambda params: lambda y, t: network(params, (y - t)[:, None]).mean()
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, meta_steps))
    task_loss = lambda params, task: fit(loss_of(params), 0.1, task, steps)
    value_and_grad = jmeta.task_value_and_grad(task_loss)

    def meta_step(carry, key):
        params, opt_state = carry
        tasks = jax.vmap(sample)(jax.random.split(key, 16))
        _, grads = value_and_grad(params, tasks)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    carry, keys = (params, tx.init(params)), jax.random.split(key, meta_steps)
    return loss_of(jax.lax.scan(meta_step, carry, keys)[0][0])


def draw(learned, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    ax, outputs, zero = figure.subplots(), jnp.linspace(-5, 5, 101), jnp.zeros(1)
    losses = {"learned": learned, "squared error": squared, "absolute error": absolute}
    for (name, loss_fn), line in zip(losses.items(), ("-", "--", ":"), strict=True):
        values = jax.vmap(lambda y, f=loss_fn: f(y[None], zero))(outputs)
        ax.plot(outputs, (values - values.min()) / jnp.ptp(values), line, label=name)
    ax.set(xlabel="prediction minus target", ylabel="loss, scaled to 0..1")
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--meta-steps", type=int, default=2000)
    parser.add_argument("--out", type=pathlib.Path, default="out/learned_loss.png")
    args = parser.parse_args(argv)
    key, test_key = jax.random.split(jax.random.key(0))
    learned = meta_train(key, args.steps, args.meta_steps)
    tasks = jax.vmap(sample)(jax.random.split(test_key, 500))

    def mean_error(loss_fn, rates, steps):
        over_tasks = jax.vmap(lambda lr, task: fit(loss_fn, lr, task, steps), (None, 0))
        means = jax.lax.map(lambda lr: over_tasks(lr, tasks).mean(), jnp.array(rates))
        return float(jnp.nanmin(means))

    errors = {("learned", args.steps): mean_error(learned, (0.1,), args.steps)}
    for name, loss_fn in (("absolute", absolute), ("squared", squared)):
        for n in (args.steps, 25 * args.steps):
            errors[name, n] = mean_error(loss_fn, RATES, n)
    for (name, n), error in errors.items():
        print(f"{name:9} {n:3} steps: {error:.3f}")
    draw(learned, args.out)
    return errors


if __name__ == "__main__":
    main()
