"""A meta-batch on several devices: the same training, shared out.

`mesh=` gives each device its share of the tasks and adds up their gradients once a
step. MAML on sine curves with 32 tasks a step is trained on one device and on eight; on
a machine without accelerators the eight are made of the CPU, which shows that the
numbers are the same, not that it is faster. Expect losses that differ by less than 1e-5
during 200 steps, from the order in which float32 numbers are added up.

    python examples/multi_device.py
"""

import argparse
import os
import pathlib

# read when JAX starts; devices other than the CPU are as many as there are
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jmeta


def train(mesh, steps, tasks, seed=0):
    """MAML on sine curves; `mesh` is all that differs."""
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(
        nnx.Linear(1, 40, rngs=rngs),
        nnx.relu,
        nnx.Linear(40, 40, rngs=rngs),
        nnx.relu,
        nnx.Linear(40, 1, rngs=rngs),
    )
    apply_fn, params = jmeta.make_functional(model)
    mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
    return jmeta.fit(
        jmeta.algorithms.maml(apply_fn, jmeta.optim.sgd(lr=0.01), 1, loss_fn=mse),
        params,
        optax.adam(1e-3),
        jmeta.data.batch(jmeta.data.sinusoid(), tasks),
        steps,
        key=jax.random.key(seed),
        has_aux=True,
        mesh=mesh,
        log_every=max(1, steps // 20),
    )


def draw(histories, path):
    """The losses, which lie on one another, and what lies between them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    (one, ones), (many, manys) = histories.items()
    steps, ones = zip(*((r["step"], r["loss"]) for r in ones), strict=True)
    manys = [record["loss"] for record in manys]
    left.plot(steps, ones, color="0.7", lw=5, label=one)
    left.plot(steps, manys, "C0", lw=1.5, label=many)
    left.set(xlabel="meta-step", ylabel="meta-loss")
    left.legend(frameon=False)
    right.plot(steps, np.subtract(manys, ones), "C3o", ms=4)
    right.axhline(0, color="0.7", lw=1, zorder=0)
    right.set(xlabel="meta-step", ylabel="difference")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--out", type=pathlib.Path, default="out/multi_device.png")
    args = parser.parse_args(argv)
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))
    runs = {
        "one device": train(None, args.steps, args.tasks),
        f"{mesh.size} devices": train(mesh, args.steps, args.tasks),
    }
    for name, run in runs.items():
        print(f"{name}: loss {run.history[-1]['loss']:.4f}, ", end="")
        print(
            f"parameters on {len(jax.tree.leaves(run.params)[0].sharding.device_set)}"
        )
    losses = [np.array([r["loss"] for r in run.history]) for run in runs.values()]
    difference = abs(losses[0] - losses[1]).max()
    print(f"largest difference of the losses: {difference:.0e}")
    draw({name: run.history for name, run in runs.items()}, args.out)
    print(f"picture: {args.out}")
    return difference, runs


if __name__ == "__main__":
    main()
