"""First derivatives, second derivatives and products that torch.autograd gives."""

from typing import Any

import numpy as np
import torch


def record() -> list[dict[str, Any]]:
    """One row each."""
    return [sin_chain(), sin_derivatives(), product(), doubling(), jacobian(), stop()]


def sin_chain() -> dict[str, Any]:
    """b = sin(a), c = 2 b, d = c + 1, out = sum(d)."""
    a = torch.linspace(0.0, 2 * torch.pi, 25, requires_grad=True)
    b = torch.sin(a)
    c = 2 * b
    d = c + 1
    out = d.sum()
    (grad,) = torch.autograd.grad(out, a)
    return {
        "name": "sin_chain",
        "doc": sin_chain.__doc__,
        "a": a,
        "b": b,
        "c": c,
        "d": d,
        "out": out.item(),
        "grad": grad,
    }


def sin_derivatives() -> dict[str, Any]:
    """Derivatives of sin, each by differentiating the one before."""
    a = torch.linspace(0.0, 2 * torch.pi, 25, requires_grad=True)
    found, value = [], torch.sin(a)
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), a, create_graph=True)
        found.append(value)
    names = ("first", "second", "third")
    row = {"name": "sin_derivatives", "doc": sin_derivatives.__doc__, "a": a}
    return row | dict(zip(names, found, strict=True))


def product() -> dict[str, Any]:
    """Q = 3 a^3 - b^2, and the product of a cotangent of ones with its Jacobian."""
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    q = 3 * a**3 - b**2
    cotangent = torch.ones(2)
    grad_a, grad_b = torch.autograd.grad(q, (a, b), cotangent)
    return {
        "name": "product",
        "doc": product.__doc__,
        "a": a,
        "b": b,
        "q": q,
        "cotangent": cotangent,
        "grad_a": grad_a,
        "grad_b": grad_b,
    }


def doubling() -> dict[str, Any]:
    """y = 2 x, doubled until its norm is at least 1000; a vector-Jacobian product."""
    x = torch.as_tensor(np.random.default_rng(2).standard_normal(3)).requires_grad_()
    y, doublings = 2 * x, 0
    while y.norm() < 1000:
        y, doublings = 2 * y, doublings + 1
    cotangent = torch.tensor([0.1, 1.0, 1e-4])
    (vjp,) = torch.autograd.grad(y, x, cotangent)
    return {
        "name": "doubling",
        "doc": doubling.__doc__,
        "x": x,
        "y": y,
        "doublings": doublings,
        "cotangent": cotangent,
        "vjp": vjp,
    }


def jacobian() -> dict[str, Any]:
    """f(x) = tanh(m x) (x_0^2 + exp(x_1)), and g(x) = w . f(x)."""
    draw = np.random.default_rng(4)
    m, x, tangent, w = (
        torch.as_tensor(draw.standard_normal(shape)) for shape in ((4, 3), 3, 3, 4)
    )

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(m @ x) * (x[0] ** 2 + torch.exp(x[1]))

    def g(x: torch.Tensor) -> torch.Tensor:
        return w @ f(x)

    functional = torch.autograd.functional
    return {
        "name": "jacobian",
        "doc": jacobian.__doc__,
        "m": m,
        "x": x,
        "tangent": tangent,
        "w": w,
        "value": f(x),
        "jacobian": functional.jacobian(f, x),
        "jvp": functional.jvp(f, x, tangent)[1],
        "vjp": functional.vjp(f, x, w)[1],
        "hessian": functional.hessian(g, x),
        "hvp": functional.hvp(g, x, tangent)[1],
    }


def stop() -> dict[str, Any]:
    """The gradient of sum(detach(x) x^2), which is 2 x^2."""
    x = torch.as_tensor(np.random.default_rng(6).standard_normal(4)).requires_grad_()
    (grad,) = torch.autograd.grad((x.detach() * x**2).sum(), x)
    return {"name": "stop", "doc": stop.__doc__, "x": x, "grad": grad}
