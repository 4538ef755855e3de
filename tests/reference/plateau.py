"""torch's ReduceLROnPlateau on scripted metrics."""

from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler

BASE = (0.1, 0.05)

SETTINGS: dict[str, tuple[str, dict]] = {
    "default": ("falling", {}),
    "min_rel": ("noisy", dict(factor=0.5, patience=5, threshold=0.01)),
    "min_abs": (
        "noisy",
        dict(factor=0.5, patience=3, threshold=0.05, threshold_mode="abs", cooldown=4),
    ),
    "max_rel": (
        "rising",
        dict(mode="max", factor=0.3, patience=4, threshold=0.02, cooldown=2),
    ),
    "max_abs": (
        "rising",
        dict(
            mode="max",
            factor=0.3,
            patience=0,
            threshold=0.01,
            threshold_mode="abs",
            min_lr=[0.001, 0.005],
        ),
    ),
    "eps": ("flat", dict(factor=0.9, patience=1, eps=2e-3, min_lr=0.01)),
    "min_lr": ("flat", dict(factor=0.5, patience=0, cooldown=3, min_lr=1e-3)),
    "negative": ("negative", dict(factor=0.5, patience=2, threshold=0.1)),
    "negative_max": (
        "negative",
        dict(mode="max", factor=0.5, patience=2, threshold=0.1),
    ),
    "nan": ("nan", dict(factor=0.5, patience=3)),
    "infinite": ("infinite", dict(factor=0.5, patience=3)),
}


def record() -> list[dict[str, Any]]:
    """lr of two groups after each metric, with the counters behind it."""
    return [row(name, *SETTINGS[name]) for name in SETTINGS]


def row(name: str, script: str, kwargs: dict) -> dict[str, Any]:
    """One run of the scheduler."""
    metrics = scripts()[script]
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in BASE]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, BASE, strict=True)]
    optimizer = torch.optim.SGD(groups)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **kwargs)
    lrs, bad, cooling, best = [list(BASE)], [0], [0], [scheduler.best]
    for metric in metrics.tolist():
        scheduler.step(metric)
        lrs.append([group["lr"] for group in optimizer.param_groups])
        bad.append(scheduler.num_bad_epochs)
        cooling.append(scheduler.cooldown_counter)
        best.append(scheduler.best)
    return {
        "name": name,
        "kwargs": kwargs,
        "base_lrs": list(BASE),
        "metrics": metrics,
        "lrs": np.array(lrs),
        "num_bad_epochs": np.array(bad),
        "cooldown_counter": np.array(cooling),
        "best": np.array(best, dtype="float64"),
    }


def scripts() -> dict[str, np.ndarray]:
    """The metrics, 100 each."""
    draw = np.random.default_rng(5)
    t = np.arange(100)
    noise = draw.standard_normal(100)
    falling = np.exp(-t / 12) + 0.2 + 0.001 * noise
    broken = 1 / (1 + t)
    broken[[3, 4, 20, 21, 22, 23, 24, 60]] = np.nan
    endless = 1 / (1 + t)
    endless[[2, 3, 30, 31, 32, 33, 34]] = np.inf
    return {
        "falling": falling,
        "noisy": np.exp(-t / 25) + 0.05 * noise,
        "rising": 1 - np.exp(-t / 15) + 0.03 * noise,
        "flat": np.full(100, 0.7),
        "negative": -1 - np.sqrt(t) + 0.3 * noise,
        "nan": broken,
        "infinite": endless,
    }
