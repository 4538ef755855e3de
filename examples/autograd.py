"""Automatic differentiation as in PyTorch's first tutorials, in plain JAX.

What `loss.backward()` does there is a function of functions here: 2 sin(a) + 1 at 25
points of [0, 2 pi] is differentiated twice and drawn. 3 a^3 - b^2 at a = (2, 3), b =
(6, 4), and a loop that doubles a vector until it is long, give the vector-Jacobian
products. Expect

    sum                     25
    its gradient            2 cos(a): 2 at 0, -2 at pi
    second derivative       -2 sin(a): -2 at pi / 2
    product with ones       36 81 in a, -12 -8 in b
    doubled 10 times        204.8 2048 0.2048

    python examples/autograd.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np


def curve(a):
    """The steps of a computation; torch keeps them as a graph, JAX traces them."""
    b = jnp.sin(a)
    c = 2 * b
    return c + 1


def total(a):
    return curve(a).sum()


def derivatives(f, a, order):
    """f', f'', ... at each point of `a`, of a function of one number."""
    found = []
    for _ in range(order):
        f = jax.grad(f)
        found.append(jax.vmap(f)(a))
    return found


def polynomial(a, b):
    return 3 * a**3 - b**2


def doubled(x):
    """2 x, doubled until its norm is at least 1000.

    Outside `jit` the loop may look at the numbers, as it may in torch.
    """
    y = 2 * x
    while jnp.linalg.norm(y) < 1000:
        y = 2 * y
    return y


def pull_back(f, inputs, cotangent):
    """The product of a cotangent with the Jacobian of `f`, for each input.

    torch writes it `autograd.grad(f(*inputs), inputs, cotangent)`.
    """
    outputs, vjp = jax.vjp(f, *inputs)
    return vjp(jnp.asarray(cotangent, outputs.dtype))


def plot(a, grad, second, path):
    from matplotlib.figure import Figure

    # without pyplot a figure is drawn by Agg, with or without a screen
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(a, jnp.sin(a), "ks--", markersize=3, label="b = sin(a)")
    left.plot(a, curve(a), "o-", markersize=3, label="d = 2 b + 1")
    left.set(title="The curve at 25 points", ylabel="value", ylim=(-1.4, 4.8))
    right.plot(a, grad, "o-", markersize=3, label="gradient of sum(d)")
    right.plot(a, second, "ks--", markersize=3, label="second derivative of d")
    right.set(title="Its derivatives", ylabel="derivative", ylim=(-2.5, 4.2))
    ticks = jnp.pi * jnp.arange(0, 2.5, 0.5)
    for axes in (left, right):
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_xticks(ticks, ["0", "π/2", "π", "3π/2", "2π"])
        axes.set_xlabel("a (radians)")
        axes.legend(loc="upper center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def show(title, *arrays):
    numbers = ["  ".join(f"{x:.5g}" for x in np.ravel(array)) for array in arrays]
    print(f"{title:26}{' | '.join(numbers)}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path, default="out")
    args = parser.parse_args(argv)

    a = jnp.linspace(0, 2 * jnp.pi, args.points)
    value, grad = jax.value_and_grad(total)(a)
    _, second = derivatives(curve, a, 2)
    show("sum", value)
    show("gradient at 0, pi", grad[:: (len(a) - 1) // 2][:2])
    show("second derivative at pi/2", second[(len(a) - 1) // 4])

    inputs = jnp.array([2.0, 3.0]), jnp.array([6.0, 4.0])
    show("product with ones", *pull_back(polynomial, inputs, [1, 1]))
    x = (jnp.array([0.2, -0.5, -0.4]),)
    show("doubled 10 times", *pull_back(doubled, x, [0.1, 1.0, 1e-4]))
    plot(a, grad, second, args.out / "autograd.png")


if __name__ == "__main__":
    main()
