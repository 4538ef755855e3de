"""torch's SparseAdam on an embedding of which each step uses some rows."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding

from .differences import check

STEPS, ROWS, WIDTH, BATCH = 12, 7, 3, 4
CONFIGURATIONS: dict[str, dict] = {
    "default": dict(lr=0.05),
    "settings": dict(lr=0.05, betas=(0.8, 0.95), eps=1e-4),
    "maximize": dict(lr=0.02, maximize=True),
}


def record() -> list[dict[str, Any]]:
    """Trajectories, and derivatives at their end."""
    return [row(name, kwargs) for name, kwargs in CONFIGURATIONS.items()]


def row(name: str, kwargs: dict) -> dict[str, Any]:
    """One configuration."""
    draw = np.random.default_rng(13)
    table = torch.as_tensor(draw.standard_normal((ROWS, WIDTH)))
    # the last row is never used
    indices = torch.as_tensor(draw.integers(0, ROWS - 1, (STEPS, BATCH)))
    targets = torch.as_tensor(draw.standard_normal((STEPS, BATCH, WIDTH)))
    wanted = torch.as_tensor(draw.standard_normal((ROWS, WIDTH)))
    full = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **kwargs}
    settings = {k: full[k] for k in ("lr", "betas", "eps")}

    def outer(table: torch.Tensor) -> torch.Tensor:
        return ((table - wanted) ** 2).mean()

    def real(settings: dict, table: torch.Tensor) -> dict[str, Any]:
        p = table.clone().requires_grad_()
        optimizer = torch.optim.SparseAdam([p], maximize=full.get("maximize", False))
        optimizer.param_groups[0].update(settings)
        path, losses = [table], []
        for idx, target in zip(indices, targets, strict=True):
            optimizer.zero_grad()
            loss = ((embedding(idx, p, sparse=True) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            path.append(p.detach().clone())
        state = {k: v for k, v in optimizer.state[p].items()}
        found = {"path": path, "losses": losses, "state": state}
        return found | {"outer": outer(p).item()}

    exact = real(settings, table)
    hp = {k: torch.tensor(v, requires_grad=True) for k, v in settings.items()}
    start = table.clone().requires_grad_()
    final = functional(hp, start, indices, targets, full.get("maximize", False))
    assert torch.allclose(final, exact["path"][-1], rtol=1e-12, atol=1e-13), name
    loss = outer(final)
    *grads, d_table = torch.autograd.grad(loss, [*hp.values(), start])
    d_settings = {k: g.tolist() for k, g in zip(hp, grads, strict=True)}
    for key, value in settings.items():
        for i in range(np.size(value)):

            def moved(h: float, key: str = key, i: int = i) -> float:
                changed = np.ravel(settings[key]).tolist()
                changed[i] += h
                new = changed[0] if len(changed) == 1 else tuple(changed)
                return real({**settings, key: new}, table)["outer"]

            at = float(np.ravel(value)[i])
            size = 0.4 * (1 - at) if key == "betas" else 0.1
            slope = float(np.ravel(d_settings[key])[i])
            check(f"sparse_adam {name}: {key}[{i}]", slope, moved, size=size)
    for _ in range(3):
        d = torch.as_tensor(draw.standard_normal((ROWS, WIDTH)))
        slope = (d_table * d).sum().item()
        shifted = lambda h, d=d: real(settings, table + h * d)["outer"]
        check(f"sparse_adam {name}: table", slope, shifted, size=0.1)
    return {
        "name": name,
        "doc": (
            "at step t the loss is mean((table[indices[t]] - targets[t])^2), the outer "
            "loss is mean((table - wanted)^2); row 6 is never used"
        ),
        "optimizer": "SparseAdam",
        "kwargs": kwargs,
        "settings": settings,
        "indices": indices,
        "targets": targets,
        "wanted": wanted,
        "params": torch.stack(exact["path"]),
        "losses": np.array(exact["losses"]),
        "state": exact["state"],
        "outer": loss.item(),
        "d_settings": d_settings,
        "d_params": d_table,
    }


def functional(
    hp: dict, p: torch.Tensor, indices: Any, targets: Any, maximize: bool
) -> torch.Tensor:
    """The run as differentiable code: rows without gradient keep value and moments."""
    lr, (beta1, beta2), eps = hp["lr"], hp["betas"], hp["eps"]
    m = v = torch.zeros_like(p)
    for t, (idx, target) in enumerate(zip(indices, targets, strict=True), start=1):
        loss = ((p[idx] - target) ** 2).mean()
        (g,) = torch.autograd.grad(loss, p, create_graph=True)
        g = -g if maximize else g
        used = torch.zeros(len(p), 1, dtype=torch.bool).index_fill(0, idx, True)
        m = torch.where(used, beta1 * m + (1 - beta1) * g, m)
        v = torch.where(used, beta2 * v + (1 - beta2) * g * g, v)
        # eps before the bias correction of the second moment, unlike Adam
        size = lr * (1 - beta2**t).sqrt() / (1 - beta1**t)
        root = torch.where(used, v, 1.0).sqrt()
        p = torch.where(used, p - size * m / (root + eps), p)
    return p
