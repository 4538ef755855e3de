"""The training in torch that `continue_torch.py` goes on with; needs torch.

Trains in float32 and in float64 from the first step to the last and keeps, as plain
arrays beside this script, the losses and both state dicts after 20 steps.

    python examples/continue_torch_record.py
"""

import json
import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits

RECORDED = pathlib.Path(__file__).with_name("continue_torch.npz")
STEPS, MORE = 20, 30


def train(images, labels, dtype):
    """Losses, and what a checkpoint holds after `STEPS`."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"conv": torch.nn.Conv2d(1, 6, 3, 2, 1), "head": torch.nn.Linear(96, 10)}
    ).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-4)
    x = torch.tensor(images[:, None] / 16, dtype=dtype)
    y = torch.tensor(labels, dtype=torch.long)
    kept, losses = {}, []
    for step in range(STEPS + MORE):
        if step == STEPS:
            state_dict = optimizer.state_dict()
            kept["param_groups"] = json.dumps(state_dict["param_groups"])
            for name, value in model.state_dict().items():
                kept[f"model/{name}"] = value.numpy().copy()
            for index, fields in state_dict["state"].items():
                for name, value in fields.items():
                    kept[f"state/{index}/{name}"] = value.numpy().copy()
        features = torch.relu(model["conv"](x)).flatten(1)
        loss = torch.nn.functional.cross_entropy(model["head"](features), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return kept | {"losses": np.array(losses)}


def main():
    digits = load_digits()
    images = digits.images[:200].astype(np.uint8)
    labels = digits.target[:200].astype(np.uint8)
    kept = {"images": images, "labels": labels}
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        run = train(images, labels, dtype)
        kept |= {f"{name}/{key}": value for key, value in run.items()}
    np.savez_compressed(RECORDED, **kept)


if __name__ == "__main__":
    main()
