"""Adapting a part: the head (ANIL) or low-rank factors (LoRA) of a meta-learned net.

All weights are meta-learned on sine curves. Five steps of SGD then adapt to a new curve
all of them (MAML), the head alone, or a rank-one correction of the middle layer and
nothing else. Expect a test MSE after these steps of about 0.37 by adapting all 1841
numbers, of 0.21 by the 41 of the head and of 0.26 by the 80 of the correction.

    python examples/subset_adaptation.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jmeta
from jmeta import algorithms

STEPS, LR, WIDTH, RANK = 5, 0.01, 40, 1
STEPS_SHOWN = (0, 1, 3, 5, 10)
sample = jmeta.data.sinusoid()
PARTS = {
    "all": lambda path: True,
    "head": lambda path: path[:2] == ("layers", "4"),
    "low-rank": lambda path: path[-1] in ("lora_a", "lora_b"),
}


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def make_model(seed):
    """The middle layer computes x @ (kernel + lora_a @ lora_b) + bias."""
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(
        *(nnx.Linear(1, WIDTH, rngs=rngs), nnx.tanh),
        *(nnx.LoRALinear(WIDTH, WIDTH, lora_rank=RANK, rngs=rngs), nnx.tanh),
        nnx.Linear(WIDTH, 1, rngs=rngs),
    )
    return jmeta.make_functional(model)


def adapt(apply_fn, part, steps):
    tx = jmeta.optim.sgd(lr=LR)
    return algorithms.anil(apply_fn, tx, steps, loss_fn=mse, trainable=PARTS[part])


def size(params, part):
    """How many numbers a part has."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = lambda path: tuple(str(key.key) for key in path)
    return sum(x.size for path, x in leaves if PARTS[part](names(path)))


def draw(results, apply_fn, fitted, task, path):
    """Test MSE against steps, and one new curve after five of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = jnp.linspace(-5, 5, 200)[:, None]
    outputs = {}
    for (part, errors), style in zip(results.items(), ("o--", "s-", "^:"), strict=True):
        left.semilogy(STEPS_SHOWN, errors, style, ms=4, label=part)
        # only outputs are used: any targets do
        _, aux = adapt(apply_fn, part, STEPS)(fitted[part], task._replace(query=(x, x)))
        outputs[part] = aux.outputs
    left.set(xlabel="inner step", ylabel="test MSE", xticks=STEPS_SHOWN)
    left.legend(frameon=False, title="adapted part")
    right.plot(*task.query, "k.", ms=4, label="not seen")
    jmeta.plot.adaptation(x, outputs, seen=task.support, ax=right)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default="out/subset_adaptation.png")
    args = parser.parse_args(argv)
    train_key, test_key = jax.random.split(jax.random.key(args.seed))
    apply_fn, params = make_model(args.seed)
    tasks = jmeta.data.batch(sample, 600)(test_key)
    results, fitted = {}, {}
    for part in PARTS:
        fitted[part] = jmeta.fit(
            adapt(apply_fn, part, STEPS),
            params,
            optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-3)),
            jmeta.data.batch(sample, 25),
            args.meta_steps,
            key=train_key,
            has_aux=True,
        ).params
        tests = [jmeta.task_map(adapt(apply_fn, part, steps)) for steps in STEPS_SHOWN]
        errors = [jax.jit(test)(fitted[part], tasks)[0].mean() for test in tests]
        results[part] = jnp.array(errors)
    print("adapted         test MSE after" + "".join(f"{n:8}" for n in STEPS_SHOWN))
    for part, errors in results.items():
        numbers = "".join(f"{error:8.3f}" for error in errors)
        print(f"{part:9} {size(params, part):6} numbers      " + numbers)
    draw(results, apply_fn, fitted, jax.tree.map(lambda x: x[0], tasks), args.out)
    print(f"picture: {args.out}")
    return results


if __name__ == "__main__":
    main()
