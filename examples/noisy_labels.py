"""Learning to reweight noisy labels, with 100 clean ones as the judge.

Of 1000 digits 40 % have a wrong label, and a network trained on them learns the wrong
ones too. An image's weight is a function of its loss at the time, as in Shu et al.
(2019), "Meta-Weight-Net"; here it is a line through seven knots, whose heights are
learned through all of the training, by its loss on 100 clean images. Expect a test
accuracy of 94 %; it is 97 % with clean labels, 80 % with noisy, 90 % from the 100.

    python examples/noisy_labels.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from tqdm import trange

import jmeta

KNOTS = np.linspace(0.0, 6.0, 7)
TX = jmeta.optim.sgd(lr=0.1, momentum=0.9)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def digits(key):
    """Images and labels: 1000 without and with noise, 100 clean ones, the rest."""
    x, y = shuffle(*load_digits(return_X_y=True), random_state=0)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y, jnp.int32)
    # the images are in random order: 400 times another label
    shift = jax.random.randint(key, (400,), 1, 10, jnp.int32)
    noisy = y[:1000].at[:400].add(shift) % 10
    parts = {"clean": slice(1000), "few": slice(1000, 1100), "test": slice(1100, None)}
    sets = {name: (x[rows], y[rows]) for name, rows in parts.items()}
    return sets | {"noisy": (x[:1000], noisy)}


def weights(heights, losses):
    """An image's weight by its loss, in 0..1."""
    return jax.nn.sigmoid(jnp.interp(losses, KNOTS, heights))


def train(model, heights, data, steps):
    """The inner loop; without heights every weight is 1."""
    (apply_fn, params), (x, y) = model, data

    def objective(params):
        losses = cross_entropy(apply_fn(params, x), y)
        if heights is None:
            return losses.mean()
        # a factor of the loss: no step may lower the weight instead of the loss
        return (weights(heights, jax.lax.stop_gradient(losses)) * losses).mean()

    return jmeta.inner_loop(objective, params, TX, steps).params


def learn(model, data, steps, meta_steps):
    """The heights of the knots, from weights of 1/2."""
    (x, y), (apply_fn, _) = data["few"], model
    tx = optax.adam(optax.cosine_decay_schedule(0.3, meta_steps))

    def meta_loss(heights):
        params = train(model, heights, data["noisy"], steps)
        return cross_entropy(apply_fn(params, x), y).mean()

    @jax.jit
    def meta_step(heights, opt_state):
        loss, grads = jax.value_and_grad(meta_loss)(heights)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(heights, updates), opt_state, loss

    opt_state = tx.init(heights := jnp.zeros(len(KNOTS)))
    for _ in (bar := trange(meta_steps, desc="weights")):
        heights, opt_state, loss = meta_step(heights, opt_state)
        bar.set_postfix(loss=f"{loss:.3f}")
    return heights


def draw(heights, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    ax, losses = figure.subplots(), jnp.linspace(0, KNOTS[-1], 200)
    ax.plot(losses, weights(heights, losses))
    ax.set(xlabel="loss of an image during training", ylabel="weight", ylim=(0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--meta-steps", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path, default="out/noisy_labels.png")
    args = parser.parse_args(argv)
    data, rngs = digits(jax.random.key(0)), nnx.Rngs(0)
    first, last = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)
    model = jmeta.make_functional(nnx.Sequential(first, nnx.relu, last))
    heights = learn(model, data, args.steps, args.meta_steps)
    accuracies, (x, y) = {}, data["test"]
    for title, name, used in (
        ("clean labels", "clean", None),
        ("noisy labels", "noisy", None),
        ("the 100 clean alone", "few", None),
        ("noisy, reweighted", "noisy", heights),
    ):
        params = train(model, used, data[name], args.steps)
        accuracies[title] = float((model[0](params, x).argmax(-1) == y).mean())
        print(f"test accuracy, {title:20} {accuracies[title]:.1%}")
    draw(heights, args.out)
    return accuracies


if __name__ == "__main__":
    main()
