"""The well-known toy run: five differentiable SGD steps of one weight, by `higher`."""

from typing import Any

import higher
import numpy as np
import torch

LR, MOMENTUM, SLOPE, STEPS, META_LR = 0.3, 0.5, 3.5, 5, 1e-5


def record() -> list[dict[str, Any]]:
    """Both ways of treating the initial weight, the run after a meta step, float64."""
    draw = np.random.RandomState(1)
    x = torch.as_tensor(draw.uniform(size=(100, 1)))
    torch.manual_seed(3)
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.float32).weight.item()
    rows = []
    for name, copy in (("copy_false", False), ("copy_true", True)):
        rows.append(run(name, x, weight, copy=copy, dtype=torch.float32))
    moved = weight - META_LR * rows[0]["d_weight"]
    rows.append(run("third_run", x, moved, copy=False, dtype=torch.float32))
    rows.append(run("float64_settings", x, weight, copy=False, dtype=torch.float64))
    return rows


def run(
    name: str, x: torch.Tensor, weight: float, *, copy: bool, dtype: torch.dtype
) -> dict[str, Any]:
    """One run from a weight, with the settings in a dtype."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, weight)
    settings = {
        "lr": torch.tensor(LR, dtype=dtype, requires_grad=True),
        "momentum": torch.tensor(MOMENTUM, dtype=dtype, requires_grad=True),
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    override = {key: [value] for key, value in settings.items()}
    with higher.innerloop_ctx(
        model, optimizer, copy_initial_weights=copy, override=override
    ) as (fmodel, diffopt):
        for _ in range(STEPS):
            diffopt.step(((fmodel(x) - x * SLOPE) ** 2).mean())
        weights = [fmodel.parameters(time=t) for t in range(STEPS + 1)]
        weights = torch.stack([next(iter(w)).detach().squeeze() for w in weights])
        meta_loss = (next(iter(fmodel.parameters())) - SLOPE).pow(2).sum()
        meta_loss.backward()
    grad = model.weight.grad
    return {
        "name": name,
        "x": x,
        "y": x * SLOPE,
        "slope": SLOPE,
        "steps": STEPS,
        "kwargs": {"lr": LR, "momentum": MOMENTUM},
        "dtype_of_settings": str(dtype).removeprefix("torch."),
        "copy_initial_weights": copy,
        "meta_lr": META_LR,
        "weights": weights,
        "meta_loss": meta_loss.item(),
        "d_settings": {key: value.grad.item() for key, value in settings.items()},
        "d_weight": None if grad is None else grad.item(),
    }
