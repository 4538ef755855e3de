"""A penalty for each feature, by implicit differentiation, against the closed form.

Ridge regression on scikit-learn's diabetes data and logistic regression on its breast
cancer data, with 20 columns of noise appended and 80 rows to train on. L-BFGS finds the
weights, one linear solve the gradient of the validation loss in all penalties, and Adam
moves these. The reference is Newton's method differentiated by JAX: one step for ridge,
which is the closed form, 15 for logistic regression. Expect gradients that differ by
less than 1e-4 of their size. Ridge's test loss falls from 0.33, with the best of 13
single penalties, to 0.27. The logistic one goes from 0.11 to 0.12 while its validation
loss falls from 0.11 to 0.02: fifty penalties overfit 200 rows.

    python examples/implicit_hpo.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import scale
from sklearn.utils import shuffle

import jmeta

# until the gradient has converged, which is after the loss
TOLERANCES = {"tolerance_grad": 0.0, "tolerance_change": 0.0}
TX = jmeta.optim.lbfgs(line_search_fn="strong_wolfe", **TOLERANCES)
ADJOINT = jmeta.Implicit(tol=1e-9)


LOSSES = {
    "ridge": lambda outputs, y: 0.5 * jnp.mean((outputs - y) ** 2),
    "logistic": lambda z, y: optax.sigmoid_binary_cross_entropy(z, y > 0).mean(),
}
SOURCES = {"ridge": load_diabetes, "logistic": load_breast_cancer}
NEWTON_STEPS = {"ridge": 1, "logistic": 15}


def load(source):
    """Three pairs (x, y): 80 rows to train on, 200 to validate, the rest to test."""
    x, y = shuffle(*source(return_X_y=True), random_state=0)
    x = scale(np.hstack([x, np.random.RandomState(0).randn(len(x), 20)]))
    x, y = jnp.asarray(x), jnp.asarray(scale(y))
    return [(x[i:j], y[i:j]) for i, j in ((0, 80), (80, 280), (280, None))]


def by_implicit(objective, size, _):
    """The inner loop, to convergence."""
    return jmeta.inner_loop(objective, jnp.zeros(size), TX, 50, adjoint=ADJOINT).params


def by_newton(objective, size, iterations):
    w = jnp.zeros(size)
    for _ in range(iterations):
        w -= jnp.linalg.solve(jax.hessian(objective)(w), jax.grad(objective)(w))
    return w


def tune(name, meta_steps):
    """Penalties, losses (validation, test) without and with them, largest error."""
    loss_fn, ((x, y), *judges) = LOSSES[name], load(SOURCES[name])
    size, iterations = x.shape[1], NEWTON_STEPS[name]

    def losses(log_penalties, solve):
        penalty = lambda w: 0.5 * jnp.sum(jnp.exp(log_penalties) * w**2)
        objective = lambda w: loss_fn(x @ w, y) + penalty(w)
        w = solve(objective, size, iterations)
        return jnp.stack([loss_fn(rows @ w, targets) for rows, targets in judges])

    gradient = jax.grad(lambda penalties, solve: losses(penalties, solve)[0])

    def step(carry, _):
        log_penalties, opt_state = carry
        grads = gradient(log_penalties, by_implicit)
        expected = gradient(log_penalties, by_newton)
        error = jnp.linalg.norm(grads - expected) / jnp.linalg.norm(expected)
        updates, opt_state = tx.update(grads, opt_state)
        return (log_penalties + updates, opt_state), error

    singles = jnp.linspace(-9.0, 3.0, 13)[:, None] * jnp.ones((1, size))
    of_singles = jax.lax.map(lambda single: losses(single, by_newton), singles)
    best = of_singles[:, 0].argmin()
    tx = optax.adam(0.1)
    carry = singles[best], tx.init(singles[best])
    carry, errors = jax.lax.scan(step, carry, length=meta_steps)
    return carry[0], of_singles[best], losses(carry[0], by_newton), errors.max()


def draw(penalties, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for ax, (name, logs) in zip(figure.subplots(1, 2), penalties.items(), strict=True):
        ax.bar(range(len(logs)), logs, color=["C0"] * (len(logs) - 20) + ["C1"] * 20)
        ax.set(title=name, xlabel="feature (orange: noise)", ylabel="log penalty")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=30)
    parser.add_argument("--out", type=pathlib.Path, default="out/implicit_hpo.png")
    args = parser.parse_args(argv)
    with jax.enable_x64(True):
        tuned = {name: tune(name, args.meta_steps) for name in SOURCES}
    results = jax.device_get(tuned)
    for name, (_, before, after, error) in results.items():
        print(f"{name:8} largest relative error of the gradient {error:.0e}")
        print(f"  validation loss, one penalty {before[0]:.3f}, learned {after[0]:.3f}")
        print(f"  test loss,       one penalty {before[1]:.3f}, learned {after[1]:.3f}")
    draw({name: result[0] for name, result in results.items()}, args.out)
    return results


if __name__ == "__main__":
    main()
