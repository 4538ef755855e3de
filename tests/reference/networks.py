"""Small torch modules of each layer kind, with names as a user would have them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Made = tuple[nn.Module, dict[str, np.ndarray]]


class Recurrent(nn.Module):
    """An LSTM or GRU over a sequence, read out from its last output."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(3, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Cell(nn.Module):
    """A cell stepped along a sequence, read out from its last state."""

    def __init__(self, kind: type[nn.LSTMCell] | type[nn.GRUCell]) -> None:
        super().__init__()
        self.cell = kind(3, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for part in x.unbind(1):
            state = self.cell(part, state)
        hidden = state[0] if isinstance(state, tuple) else state
        return self.out(hidden)


class Convolutional(nn.Module):
    """Two convolutions with BatchNorm, flattened as (channel, row, column)."""

    def __init__(self, smooth: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 3, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 3)
        self.act = nn.Tanh() if smooth else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        return self.fc(x.flatten(1))


class Convolutional1d(nn.Module):
    """One convolution along a sequence with BatchNorm, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.bn = nn.BatchNorm1d(3)
        self.fc = nn.Linear(15, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))


class Embedded(nn.Module):
    """Embedded tokens, their mean normalised, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.emb(tokens).mean(1)))


class Attention(nn.Module):
    """One block of single-head attention over embedded tokens, every token read out."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(9, 6)
        self.norm = nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.out = nn.Linear(6, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.emb(tokens)
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).transpose(1, 2) / 6**0.5
        return self.out(x + torch.softmax(scores, -1) @ self.v(y))


def linear() -> nn.Module:
    """Two linear layers with a ReLU."""
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def layer_norm() -> nn.Module:
    """A LayerNorm between two linear layers."""
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2))


# network -> (constructor, shape of the inputs, tokens, classes of the targets)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple, int, int]] = {
    "linear": (linear, (8, 4), 0, 0),
    "layer_norm": (layer_norm, (8, 4), 0, 0),
    "conv1d": (Convolutional1d, (6, 2, 5), 0, 0),
    "conv2d": (Convolutional, (6, 2, 6, 6), 0, 3),
    "embedding": (Embedded, (8, 5), 9, 3),
    "lstm": (lambda: Recurrent(nn.LSTM), (6, 4, 3), 0, 0),
    "gru": (lambda: Recurrent(nn.GRU), (6, 4, 3), 0, 0),
    "lstm_cell": (lambda: Cell(nn.LSTMCell), (6, 4, 3), 0, 0),
    "gru_cell": (lambda: Cell(nn.GRUCell), (6, 4, 3), 0, 0),
    "conv2d_tanh": (lambda: Convolutional(smooth=True), (6, 2, 6, 6), 0, 3),
    "attention": (Attention, (5, 6), 9, 9),
}


def made(name: str) -> Made:
    """A network with numbers of a fixed seed, and its data."""
    build, shape, tokens, classes = NETWORKS[name]
    draw = np.random.default_rng(list(NETWORKS).index(name) + 100)
    model = build()
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.as_tensor(draw.standard_normal(tuple(p.shape)))
            scale = 0.3 if p.ndim == 1 else 1 / p[0].numel() ** 0.5
            one = 1.0 if p.ndim == 1 and key.endswith("weight") else 0.0
            p.copy_(one + scale * noise)
    data: dict[str, Any] = {}
    for key in ("", "_val"):
        x = draw.integers(0, tokens, shape) if tokens else draw.standard_normal(shape)
        data[f"x{key}"] = x
        outputs = tuple(model(torch.as_tensor(x)).shape)
        data[f"y{key}"] = (
            draw.integers(0, classes, outputs[:-1])
            if classes
            else draw.standard_normal(outputs)
        )
    return build_again(build, model), data


def build_again(build: Callable[[], nn.Module], model: nn.Module) -> nn.Module:
    """A network with the parameters of another and buffers as new."""
    again = build()
    again.load_state_dict({**again.state_dict(), **dict(model.named_parameters())})
    return again


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy for integer targets, otherwise the mean squared error."""
    if targets.is_floating_point():
        return ((outputs - targets) ** 2).mean()
    flat = outputs.reshape(-1, outputs.shape[-1])
    return nn.functional.cross_entropy(flat, targets.reshape(-1))
