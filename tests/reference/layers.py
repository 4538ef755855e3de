"""Single torch layers with their state_dict, on one input: what is laid out anew."""

from typing import Any

import torch
from torch import nn

TRANSPOSED: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "plain_1d": ("ConvTranspose1d", dict(kernel_size=3), (5,)),
    "square_1d": ("ConvTranspose1d", dict(kernel_size=4, out_channels=3), (5,)),
    "strided_1d": (
        "ConvTranspose1d",
        dict(kernel_size=3, stride=2, padding=1, output_padding=1, bias=False),
        (5,),
    ),
    "wide_1d": ("ConvTranspose1d", dict(kernel_size=2, stride=3), (4,)),
    "upsampling_2d": (
        "ConvTranspose2d",
        dict(kernel_size=4, stride=2, padding=1),
        (4, 3),
    ),
    "uneven_2d": (
        "ConvTranspose2d",
        dict(
            kernel_size=(3, 2),
            stride=(2, 3),
            padding=(1, 0),
            output_padding=(0, 2),
            dilation=(2, 1),
        ),
        (3, 4),
    ),
    "strided_3d": (
        "ConvTranspose3d",
        dict(kernel_size=2, stride=2, padding=1),
        (2, 3, 3),
    ),
}
"""The class, its arguments beside 3 input and 2 output channels, the input's space."""

ATTENTION: dict[str, dict[str, Any]] = {
    "self": dict(batch_first=True),
    "sequence_first": dict(),
    "no_bias": dict(batch_first=True, bias=False),
    "cross": dict(batch_first=True, kdim=5, vdim=5),
    "cross_apart": dict(batch_first=True, kdim=5, vdim=3, bias=False),
    "causal": dict(batch_first=True),
}
"""Arguments beside 6 features and 2 heads."""


def record() -> list[dict[str, Any]]:
    """Every transposed convolution, every attention, and nested Sequentials."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    rows = [_transposed(name) for name in TRANSPOSED]
    rows += [_attention(name) for name in ATTENTION]
    return [*rows, _sequential(), _decoder()]


def _row(name: str, layer: nn.Module, inputs: list, **kwargs: Any) -> dict[str, Any]:
    for parameter in layer.parameters():  # torch begins some biases at 0
        nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        outputs = layer.eval()(*inputs, **kwargs)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    return {
        "name": name,
        "doc": " ".join(str(layer).split()),
        "inputs": inputs,
        "state_dict": dict(layer.state_dict()),
        "outputs": outputs,
    }


def _transposed(name: str) -> dict[str, Any]:
    kind, options, space = TRANSPOSED[name]
    channels = {"in_channels": 3, "out_channels": 2}
    layer = getattr(nn, kind)(**(channels | options))
    row = _row(f"transposed/{name}", layer, [torch.randn(2, 3, *space)])
    return row | {"settings": {k: v for k, v in options.items() if k != "bias"}}


def _attention(name: str) -> dict[str, Any]:
    options = ATTENTION[name]
    layer = nn.MultiheadAttention(6, 2, **options)
    query = torch.randn(2, 4, 6)
    source = torch.randn(2, 5, 5)[..., : options.get("kdim", 5)]
    inputs = [query, query, query]
    if "kdim" in options:
        inputs = [query, source, source[..., : options["vdim"]]]
    if not options.get("batch_first"):
        inputs = [x.transpose(0, 1) for x in inputs]
    mask = torch.ones(4, 4).triu(1).bool() if name == "causal" else None
    return _row(f"attention/{name}", layer, inputs, attn_mask=mask)


def _sequential() -> dict[str, Any]:
    """Sequentials in Sequentials, with layers between that have no parameters."""
    inner = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh())
    layers = nn.Linear(3, 5), nn.ReLU(), inner, nn.Sequential(nn.Linear(4, 2))
    layer = nn.Sequential(*layers)
    layer(torch.randn(8, 3))  # so that the statistics are not those of the beginning
    return _row("sequential", layer, [torch.randn(6, 3)])


def _decoder() -> dict[str, Any]:
    """Transposed convolutions in a Sequential."""
    last = nn.ConvTranspose2d(4, 1, 3, padding=1)
    layer = nn.Sequential(nn.ConvTranspose2d(2, 4, 2, stride=2), nn.ReLU(), last)
    return _row("decoder", layer, [torch.randn(2, 2, 3, 3)])
