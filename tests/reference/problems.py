"""The inner and outer objectives that optimizers are recorded on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

Params = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An inner objective that is trained and an outer one at the trained parameters."""

    name: str
    params: Params
    inner: Callable[[Params], torch.Tensor]
    outer: Callable[[Params], torch.Tensor]
    data: dict[str, Any]
    doc: str

    def row(self) -> dict[str, Any]:
        """What is written of it."""
        return {
            "name": self.name,
            "doc": self.doc,
            "params": self.params,
            **self.data,
        }


def mlp(seed: int = 23, unused: bool = False) -> Problem:
    """A 3-8-2 tanh network on 16 examples; `unused` adds one nothing inside uses."""
    draw = np.random.default_rng(seed)

    def tensor(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.as_tensor(scale * draw.standard_normal(shape))

    params = {
        "0.weight": tensor(8, 3, scale=0.4),
        "0.bias": tensor(8, scale=0.3),
        "2.weight": tensor(2, 8, scale=0.4),
        "2.bias": tensor(2, scale=0.3),
    }
    data = {"x": tensor(16, 3), "x_val": tensor(16, 3)}
    slope = tensor(3, 2)
    for key in ("", "_val"):
        clean = torch.tanh(data[f"x{key}"] @ slope)
        data[f"y{key}"] = clean + tensor(16, 2, scale=0.1)
    return mlp_of(params, data, unused=unused)


def mlp_of(params: Params, data: dict[str, torch.Tensor], unused: bool) -> Problem:
    """The network of `mlp` with given parameters and data."""

    def loss(p: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(linear(x, p["0.weight"], p["0.bias"]))
        return ((linear(hidden, p["2.weight"], p["2.bias"]) - y) ** 2).mean()

    def outer(p: Params) -> torch.Tensor:
        extra = (p["unused"] ** 2).sum() if unused else 0.0
        return loss(p, data["x_val"], data["y_val"]) + extra

    doc = (
        "y = W2 tanh(W1 x + b1) + b2, torch layout (out, in); the inner and outer "
        "objectives are the mean of all squared errors on (x, y) and (x_val, y_val)"
    )
    if unused:
        params = {**params, "unused": torch.tensor([0.7, -1.1])}
        doc += "; the outer one adds the sum of squares of `unused`"
    return Problem(
        name="mlp_unused" if unused else "mlp",
        params=params,
        inner=lambda p: loss(p, data["x"], data["y"]),
        outer=outer,
        data=data,
        doc=doc,
    )


def rosenbrock() -> Problem:
    """Rosenbrock's function of a vector `xy`."""

    def inner(p: Params) -> torch.Tensor:
        x, y = p["xy"]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    def outer(p: Params) -> torch.Tensor:
        x, y = p["xy"]
        return (x - 1) ** 2 + 0.5 * (y - 1) ** 2

    return Problem(
        name="rosenbrock",
        params={"xy": torch.tensor([-1.2, 1.0])},
        inner=inner,
        outer=outer,
        data={},
        doc="inner (1 - x)^2 + 100 (y - x^2)^2, outer (x - 1)^2 + 0.5 (y - 1)^2",
    )


def zero_gradient() -> Problem:
    """A quadratic whose gradients of `b` and `z` are exactly 0 at the start."""
    c = torch.tensor([2.0, 0.7])

    def inner(p: Params) -> torch.Tensor:
        quadratic = ((p["x"] - 1) ** 2).sum() + (c * p["b"] ** 2).sum()
        return 0.5 * quadratic + 0.0 * p["z"].sum()

    def outer(p: Params) -> torch.Tensor:
        near = 0.5 * ((p["b"] - 0.3) ** 2).sum() + 0.5 * ((p["z"] - 0.1) ** 2).sum()
        return ((p["x"] - 0.5) ** 2).sum() + near

    return Problem(
        name="zero_gradient",
        params={
            "x": torch.tensor([1.3, -0.4]),
            "b": torch.zeros(2),
            "z": torch.tensor([0.5]),
        },
        inner=inner,
        outer=outer,
        data={"c": c},
        doc=(
            "inner 0.5 sum (x - 1)^2 + 0.5 sum c b^2 + 0 z, outer sum (x - 0.5)^2 + "
            "0.5 sum (b - 0.3)^2 + 0.5 sum (z - 0.1)^2: at b = 0 the gradient of b is "
            "exactly 0 and its Hessian is not; the gradient of z is always 0"
        ),
    )


def problems() -> dict[str, Problem]:
    """All of them by name."""
    made = (mlp(), mlp(unused=True), rosenbrock(), zero_gradient())
    return {problem.name: problem for problem in made}


def record() -> list[dict[str, Any]]:
    """The rows of the section `problems`."""
    return [problem.row() for problem in problems().values()]
