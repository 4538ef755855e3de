"""Evaluating with averaged weights inside the outer loss.

A network fits a noisy stream of points by Adam, and is judged on clean ones. The outer
loss of a training is that of its last weights, or that of their exponential moving
average (EMA); its gradient goes through all 200 steps to the learning rate and, by the
average, to the decay. From lr 0.01 and decay 0.5 it learns settings for each. Expect a
test loss of about 0.054 for the last weights and of about 0.024 for the average.

    python examples/ema_evaluation.py
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tqdm import trange

import jmeta

TX = optax.chain(jmeta.optim.adam(), jmeta.ema(0.5))


def points(key, shape, noise):
    """Places `[*shape, 1]` on a wave, and its height there."""
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (*shape, 1), minval=-1.0, maxval=1.0)
    return x, jnp.sin(5 * x) + noise * jax.random.normal(noise_key, x.shape)


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def train(settings, key, steps):
    """Losses on clean points after a training from new weights on a noisy stream."""
    model_key, train_key, test_key = jax.random.split(key, 3)
    rngs = nnx.Rngs(model_key)
    layers = nnx.Linear(1, 32, rngs=rngs), nnx.tanh, nnx.Linear(32, 1, rngs=rngs)
    apply_fn, params = jmeta.make_functional(nnx.Sequential(*layers))
    batches = points(train_key, (steps, 8), noise=0.5)
    run = jmeta.inner_loop(
        *(apply_fn, params, TX, steps),
        loss_fn=mse,
        batches=batches,
        hyperparams=settings,
    )
    x, y = points(test_key, (256,), noise=0.0)
    judged = {"last weights": run.params, "average": jmeta.ema_params(run.opt_state)}
    return {name: mse(apply_fn(params, x), y) for name, params in judged.items()}


def natural(free):
    """A learning rate above 0 and a decay between 0 and 1."""
    return {"lr": jnp.exp(free["lr"]), "decay": jax.nn.sigmoid(free["decay"])}


def learn(losses, judged_by, key, outer_steps):
    """Adam on the mean outer loss of 8 trainings; the settings at each outer step."""
    tx = optax.adam(0.1)

    @jax.jit
    def outer_step(free, opt_state, key):
        keys = jax.random.split(key, 8)
        outer_loss = lambda free: losses(natural(free), keys)[judged_by].mean()
        updates, opt_state = tx.update(jax.grad(outer_loss)(free), opt_state)
        return optax.apply_updates(free, updates), opt_state

    free = {"lr": jnp.log(jnp.float32(0.01)), "decay": jnp.float32(0.0)}
    opt_state, way = tx.init(free), [natural(free)]
    for step in trange(outer_steps, desc=judged_by, unit="step"):
        free, opt_state = outer_step(free, opt_state, jax.random.fold_in(key, step))
        way.append(natural(free))
    return way


def draw(ways, path):
    """What was learned on the way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, name in zip(axes, ("lr", "decay"), strict=True):
        for judged_by, way in ways.items():
            ax.plot([here[name] for here in way], label=f"judged by the {judged_by}")
        ax.set(xlabel="outer step", ylabel=name)
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--outer-steps", type=int, default=60)
    parser.add_argument("--out", type=pathlib.Path, default="out/ema_evaluation.png")
    args = parser.parse_args(argv)
    losses = jax.vmap(functools.partial(train, steps=args.steps), (None, 0))
    key, test_key = jax.random.split(jax.random.key(0))
    names = "last weights", "average"
    ways = {name: learn(losses, name, key, args.outer_steps) for name in names}
    test, results = jax.jit(losses), {}
    print("judged by        lr   decay   test loss of last weights   of average")
    for judged_by, way in ways.items():
        found = way[-1] | test(way[-1], jax.random.split(test_key, 64))
        found = results[judged_by] = {k: x.mean().item() for k, x in found.items()}
        print(f"{judged_by:12}{found['lr']:8.3f}{found['decay']:8.3f}", end="")
        print("{last weights:28.3f}{average:13.3f}".format(**found))
    draw(ways, args.out)
    print(f"picture: {args.out}")
    return results


if __name__ == "__main__":
    main()
