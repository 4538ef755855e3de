"""Three pictures of what drives an optimizer: rate, momentum and averages.

Descent on y = (2 x)^2 from x = 2, where a step multiplies x by 1 - 8 lr: exact at lr
0.125, diverging at 1; momentum helps a small lr. Exponential averages: the newest value
weighs 1 - beta, one 1 / (1 - beta) steps old 1 / e of that; the average of a noisy
curve errs least at beta 0.9: with less it is noisy, with more late. Expect

    lr                               0.01      0.03     0.125       0.2         1
    x, 30 steps, momentum 0         0.164  0.000531         0  4.42e-07  4.51e+25
    x, 30 steps, momentum 0.5     0.00196  2.45e-05  3.22e-05  7.25e-05  3.71e+24
    beta                             0.98      0.95       0.9       0.8
    newest weight                    0.02      0.05       0.1       0.2
    error                           0.344     0.191     0.149     0.172

    python examples/optimizers.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp

import jmeta

RATES, MOMENTA = (0.01, 0.03, 0.125, 0.2, 1.0), (0.0, 0.5)
BETAS = (0.98, 0.95, 0.9, 0.8)
LINES = ("k-", "C0--", "C1-.", "C2:", "C3s-")
TX = jmeta.optim.sgd()


def descend(lr, momentum, steps):
    """x at each time."""
    options = {"hyperparams": {"lr": lr, "momentum": momentum}, "history": True}
    return jmeta.inner_loop(lambda x: (2 * x) ** 2, 2.0, TX, steps, **options).history


def smooth(values, beta, debias=True):
    """The exponential average after each value."""
    average = jmeta.EMA(beta, debias=debias)

    def update(state, value):
        state = average.update(state, value)
        return state, average.value(state)

    return jax.lax.scan(update, average.init(jnp.zeros(())), values)[1]


def weights(beta):
    """Weight of each value in an average, the newest first: a derivative."""
    newest = lambda values: smooth(values, beta, debias=False)[-1]
    return jax.grad(newest)(jnp.zeros(100))[::-1]


def draw(path, panels, legend="", lines=LINES, **labels):
    """Titled panels of curves, told apart in grey too, with one legend."""
    from matplotlib.figure import Figure

    # without pyplot a figure is drawn by Agg, with or without a screen
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        for line, (label, y) in zip(lines, curves.items(), strict=False):
            axes.plot(y, line, markersize=3, label=label)
        axes.set_title(title, fontsize=9)
        axes.set(**labels)
        axes.label_outer()
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", title=legend)
    figure.savefig(path, dpi=80)
    print(f"wrote {path}")


def tell(title, numbers):
    print(f"{title:27}" + "".join(f"{x:>10.3g}" for x in numbers))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=pathlib.Path, default="out")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    tell("lr", RATES)
    panels = {}
    over_rates = jax.jit(jax.vmap(lambda m, lr: descend(lr, m, args.steps), (None, 0)))
    for momentum in MOMENTA:
        paths = over_rates(momentum, jnp.array(RATES))
        tell(f"x, {args.steps} steps, momentum {momentum:g}", paths[:, -1])
        # what diverges is to leave the picture once
        shown = jnp.where(abs(paths) < 20, paths, jnp.nan)
        panels[f"momentum {momentum:g}"] = dict(zip(RATES, shown, strict=True))
    labels = {"xlabel": "step", "ylabel": "x", "ylim": (-2.3, 2.3)}
    draw(args.out / "descents.png", panels, "lr", **labels)

    betas = jnp.array(BETAS)
    past = jax.vmap(weights)(betas)
    clean = 1.5 + jnp.sin(2 * jnp.pi * jnp.arange(400) / 400)
    noisy = clean + 0.5 * jax.random.normal(jax.random.key(0), clean.shape)
    averages = jax.vmap(lambda beta: smooth(noisy, beta))(betas)
    tell("beta", BETAS)
    tell("newest weight", past[:, 0])
    tell("error", jnp.sqrt(jnp.mean((averages - clean[None]) ** 2, axis=1)))
    past = {"": dict(zip(BETAS, past, strict=True))}
    draw(args.out / "weights.png", past, "beta", xlabel="age (steps)", ylabel="weight")
    curves = {"values": noisy, "without noise": clean, "beta 0.9": averages[2]}
    curves["beta 0.98"] = averages[0]
    curves["0.98, not debiased"] = smooth(noisy, 0.98, debias=False)
    labels = {"xlabel": "step", "ylabel": "value"}
    lines = ("y.", "k-", "C3-", "C0--", "C0:")
    draw(args.out / "averages.png", {"": curves}, lines=lines, **labels)


if __name__ == "__main__":
    main()
