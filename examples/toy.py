"""A hypergradient small enough to follow by hand, with numbers to compare.

A single weight learns y = 3.5 x by 5 steps of SGD, with a learning rate and a momentum
that are themselves to be learned. The run is the well-known one of PyTorch's `higher`:

    meta-loss (w5 - 3.5)^2            0.01192798798
    its gradient in lr               -1.6295
    its gradient in momentum         -0.9496
    its gradient in the first weight -0.005311 (0 with `copy_initial_weights=True`)
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jmeta

SLOPE, FIRST_WEIGHT = 3.5, -0.9914729595184326
TX = jmeta.optim.sgd()
model = jnp.multiply  # one weight times x: a linear layer of 1x1 without bias


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def settings_and_data():
    # the published digits depend on settings in float32 and everything else in float64
    settings = {"lr": jnp.float32(0.3), "momentum": jnp.float32(0.5)}
    x = np.random.RandomState(1).uniform(size=100)
    return settings, (jnp.asarray(x), jnp.asarray(SLOPE * x))


def by_context(settings, weight, data, steps, copy=False):
    """The meta-loss and the weight's path, written step by step as with `higher`."""
    x, y = data
    override = {name: [value] for name, value in settings.items()}
    with jmeta.innerloop_ctx(
        (model, weight), TX, copy_initial_weights=copy, override=override
    ) as (fmodel, diffopt):
        for _ in range(steps):
            diffopt.step(lambda: mse(fmodel(x), y))
        path = [fmodel.parameters(time=t) for t in range(steps + 1)]
        return (fmodel.fast_params - SLOPE) ** 2, jnp.stack(path)


def by_inner_loop(settings, weight, data, steps, active=None):
    """The same as one compiled loop, of which `active` steps run."""
    options = {"hyperparams": settings, "history": True, "active": active}
    run = jmeta.inner_loop(model, weight, TX, steps, loss_fn=mse, batch=data, **options)
    return (run.params - SLOPE) ** 2, run.history


def report(title, meta_loss, steps, weight=FIRST_WEIGHT):
    """Differentiate and print; returns the meta-loss, the path and the gradients."""
    settings, data = settings_and_data()
    hypergrad = jax.value_and_grad(meta_loss, argnums=(0, 1), has_aux=True)
    hypergrad = jax.jit(hypergrad, static_argnums=3)
    result = hypergrad(settings, jnp.float64(weight), data, steps)
    (loss, path), (of_settings, of_weight) = result
    print(f"{title}\n  weights   {' '.join(f'{w:.4f}' for w in path)}")
    print(f"  meta-loss {loss:.18f}\n  gradient  lr {of_settings['lr']:.4f}", end="")
    print(f"  momentum {of_settings['momentum']:.4f}  first weight {of_weight:.6f}")
    return loss, path, of_settings, of_weight


def hypergrads_by_steps(most):
    """Gradients of the meta-loss after 1, 2, ... steps, all at once."""
    settings, data = settings_and_data()

    def meta_loss(settings, weight, steps):
        return by_inner_loop(settings, weight, data, most, active=steps)[0]

    steps, weight = jnp.arange(1, most + 1), jnp.float64(FIRST_WEIGHT)
    gradients = jax.vmap(jax.grad(meta_loss, argnums=(0, 1)), in_axes=(None, None, 0))
    of_settings, of_weight = jax.jit(gradients)(settings, weight, steps)
    return steps, of_settings | {"first weight": of_weight}


def plot(path, steps, hypergrads, out):
    from matplotlib.figure import Figure

    # without pyplot a figure is drawn by Agg, with or without a screen
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(SLOPE, color="gray", linestyle="--", label=f"true slope {SLOPE}")
    left.plot(path, "o-", label="weight")
    left.set(title="The weight learns", xlabel="step", xticks=range(len(path)))
    for name, values in hypergrads.items():
        right.plot(steps, values, ".-", label=name)
    right.set(title="Hypergradient", xlabel="number of steps", xticks=steps[3::4])
    left.legend()
    right.legend()
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    print(f"wrote {out}")


def main(steps=5, out="out/toy.png"):
    cut = lambda *args: by_context(*args, copy=True)
    with jax.enable_x64(True):
        report("innerloop_ctx with the first weight cut", cut, steps)
        loss, path, _, slope = report("innerloop_ctx", by_context, steps)
        report("inner_loop", by_inner_loop, steps)
        moved = FIRST_WEIGHT - 1e-5 * float(slope)
        new_loss = report("after a meta-step of 1e-5", by_context, steps, moved)[0]
        difference = (new_loss - loss) / (moved - FIRST_WEIGHT)
        print(f"  finite difference {difference:.6f}, gradient {slope:.6f}")
        plot(path, *hypergrads_by_steps(4 * steps), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", default="out/toy.png")
    main(**vars(parser.parse_args()))
