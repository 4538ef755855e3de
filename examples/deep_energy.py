"""Structured prediction by unrolled inference: an energy network for sets of labels.

Each of scikit-learn's generated documents has some of ten labels. As in Belanger et al.
(2017), "End-to-end learning for structured prediction energy networks", they are found
by ten steps of gradient descent on an energy E(x, y), and the energy is learned through
these steps by the cross-entropy of what they find (`higher`'s deep-energy example).
A feed-forward network with as many parameters does as well here, where labels depend on
each other little once the words are known: expect an F1 score of about 0.55 from both.

    python examples/deep_energy.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import make_multilabel_classification

import jmeta

LABELS, WORDS = 10, 30
TX = jmeta.optim.sgd(lr=0.5, momentum=0.5)
cross_entropy = optax.sigmoid_binary_cross_entropy


def load():
    """Word counts and labels of 500 documents to train on and of 1000 to test."""
    x, y = make_multilabel_classification(
        1500, n_features=WORDS, n_classes=LABELS, n_labels=3, random_state=0
    )
    x, y = jnp.asarray(x / 5, jnp.float32), jnp.asarray(y, jnp.float32)
    return (x[:500], y[:500]), (x[500:], y[500:])


def network(inputs, hidden, outputs):
    first = nnx.Linear(inputs, hidden, rngs=nnx.Rngs(0))
    last = nnx.Linear(hidden, outputs, rngs=nnx.Rngs(1))
    return jmeta.make_functional(nnx.Sequential(first, nnx.softplus, last))


def make_infer(local, joint, steps):
    """Logits of the labels: the inner loop, from even odds to low energy."""

    def infer(params, x):
        evidence = local(params["local"], x)

        def energy(logits):
            y = jax.nn.sigmoid(logits)
            entropy = cross_entropy(logits, y).sum()
            return joint(params["joint"], y).sum() - (evidence * y).sum() - entropy

        start = jnp.zeros((len(x), LABELS))
        run = jmeta.inner_loop(energy, start, TX, steps, history=True)
        return run.history[1:]

    return infer


def learn(predict, params, data, meta_steps):
    """Adam on the mean cross-entropy of all the logits that `predict` gives."""
    tx, (x, y) = optax.adam(1e-2), data

    def meta_step(carry, _):
        params, opt_state = carry
        mean_loss = lambda params: cross_entropy(predict(params, x), y[None]).mean()
        updates, opt_state = tx.update(jax.grad(mean_loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    carry = params, tx.init(params)
    return jax.lax.scan(meta_step, carry, length=meta_steps)[0][0]


def f1(logits, y):
    return float(2 * ((logits > 0) * y).sum() / ((logits > 0).sum() + y.sum()))


def draw(by_step, plain, path):
    from matplotlib.figure import Figure

    ax = (figure := Figure(figsize=(6, 3), layout="constrained")).subplots()
    ax.plot(range(1, 1 + len(by_step)), by_step, "o-", label="energy")
    ax.axhline(plain, color="k", ls="--", label="feed-forward")
    ax.set(xlabel="step of inference", ylabel="test F1")
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--meta-steps", type=int, default=300)
    parser.add_argument("--out", type=pathlib.Path, default="out/deep_energy.png")
    args = parser.parse_args(argv)
    train, (x, y) = load()
    local, local_params = network(WORDS, 16, LABELS)
    joint, joint_params = network(LABELS, 16, 1)
    infer = make_infer(local, joint, args.steps)
    params = {"local": local_params, "joint": joint_params}
    plain, plain_params = network(WORDS, 21, LABELS)
    predict = lambda params, x: plain(params, x)[None]
    found = infer(learn(infer, params, train, args.meta_steps), x)
    by_step = [f1(logits, y) for logits in found]
    learned = learn(predict, plain_params, train, args.meta_steps)
    of_plain = f1(plain(learned, x), y)
    sizes = [sum(p.size for p in jax.tree.leaves(ps)) for ps in (params, plain_params)]
    print(f"energy, {args.steps} steps, {sizes[0]} parameters: F1 {by_step[-1]:.3f}")
    print(f"feed-forward, {sizes[1]} parameters: F1 {of_plain:.3f}")
    draw(by_step, of_plain, args.out)
    return by_step, of_plain


if __name__ == "__main__":
    main()
