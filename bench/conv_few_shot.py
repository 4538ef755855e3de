"""How long does one meta-gradient of MAML with the usual few-shot conv net take?

4 blocks of 3x3 convolution with 64 channels, BatchNorm with batch statistics, ReLU and
2x2 max pooling, on 28x28 images, 5-way 1-shot, 5 inner steps of SGD. Every task has
weights of its own after a step, which `vmap` turns into grouped convolutions: the case
that `jmeta.matmul_convs` and the gradient by chunks of tasks are for.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _harness import Candidate, compiled, measure, options
from _peers import higher, torch_func, torchopt
from _problem import Layers, Problem, hypergradient
from _report import Claim, bars, by_name, report, times_faster

import jmeta

WAYS = 5
TORCH = ("torch.func + vmap", "torch.func, task by task", "TorchOpt MetaSGD", "higher")
JMETA, NAIVE = "jmeta", "JAX, vmap of lax.conv"


def conv_net(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Scores `[N, ways]` of images `[N, H, W, C]`."""
    *blocks, head = params
    for block in blocks:
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, block["weight"], (1, 1), "SAME", dimension_numbers=layout
        )
        mean = x.mean((0, 1, 2), keepdims=True)
        variance = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        x = x * block["scale"].reshape(1, 1, 1, -1)
        x = jax.nn.relu(x + block["shift"].reshape(1, 1, 1, -1))
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    return x.reshape(len(x), -1) @ head["weight"] + head["bias"][None]


def conv_module(problem: Problem, normalize: Callable[[int], Any] | None = None):
    """`conv_net` as a torch module; `normalize` in place of torch's BatchNorm."""
    from torch import nn

    norm = normalize or partial(nn.BatchNorm2d, track_running_stats=False)
    *blocks, head = problem.params
    layers = []
    for block in blocks:
        _, _, before, after = block["weight"].shape
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            norm(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(*head["weight"].shape))


def plain_batch_norm(channels: int):
    """BatchNorm written out: torch 2.13's is wrong by a few per cent under vmap(grad).

    Its second derivative is; the one without vmap is right, and so is this.
    """
    import torch

    class BatchNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(channels))
            self.bias = torch.nn.Parameter(torch.zeros(channels))

        def forward(self, x):
            mean = x.mean((0, 2, 3), keepdim=True)
            variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
            scale = torch.rsqrt(variance + 1e-5) * self.weight[:, None, None]
            return (x - mean) * scale + self.bias[:, None, None]

    return BatchNorm()


def conv_params(rng: np.random.Generator, blocks: int, channels: int) -> Layers:
    sizes = [1, *[channels] * blocks]
    layers = [
        {
            "weight": rng.normal(0, np.sqrt(2 / 9 / i), (3, 3, i, o)),
            "scale": rng.uniform(0.5, 1.5, o),
            "shift": rng.normal(0, 0.1, o),
        }
        for i, o in itertools.pairwise(sizes)
    ]
    head = rng.normal(0, np.sqrt(1 / channels), (channels, WAYS))
    layers.append({"weight": head, "bias": np.zeros(WAYS)})
    return [{k: v.astype(np.float32) for k, v in layer.items()} for layer in layers]


def problem(tasks: int, queries: int, quick: bool = False) -> Problem:
    rng = np.random.default_rng(0)
    blocks, channels, steps, size = (2, 4, 2, 4) if quick else (4, 64, 5, 28)
    patterns = rng.normal(size=(tasks, WAYS, size, size, 1))

    def images(count):
        y = np.tile(np.arange(count) % WAYS, (tasks, 1)).astype(np.int32)
        x = patterns[np.arange(tasks)[:, None], y]
        return (x + rng.normal(size=x.shape)).astype(np.float32), y

    return Problem(
        conv_params(rng, blocks, channels),
        images(WAYS),
        images(queries),
        classes=True,
        steps=steps,
        lr=0.05,
    )


def one_case(args, tasks: int, queries: int):
    few_shot = problem(tasks, queries, args.quick)
    matmul = jmeta.matmul_convs(conv_net)
    plain = jmeta.Unroll(mixed=False, checkpoint=None)
    by = lambda *case: lambda: compiled(*hypergradient(case[0], few_shot, *case[1:]))
    makers: dict[str, Callable[[], Candidate]] = {
        JMETA: by(matmul, jmeta.Unroll(), 1),
        "jmeta, all tasks at once": by(matmul, jmeta.Unroll(), None),
        "JAX, lax.conv task by task": by(conv_net, plain, 1),
    }
    if tasks < 8:
        # minutes for more
        makers[NAIVE] = by(conv_net, plain, None)
    if not args.no_peers:
        module = partial(conv_module, normalize=plain_batch_norm)
        by_hand = partial(torch_func, conv_module, few_shot, vmap=False)
        peers = (
            partial(torch_func, module, few_shot),
            by_hand,
            partial(torchopt, conv_module, few_shot),
            partial(higher, conv_module, few_shot),
        )
        makers |= zip(TORCH, peers, strict=True)
    case = f"{tasks} tasks, {queries} queries"
    rows = measure(case, makers, repeats=args.repeats, tolerance=1e-2)
    memory = 1e-6 * by_name(rows)[JMETA].temp_bytes
    torch_times = [times_faster(rows, JMETA, name) for name in TORCH]
    best = [ratio for ratio in torch_times if ratio is not None]
    claims = [Claim(f"MB of temporary memory, {case}", memory, 60, at_most=True)]
    if best:
        text = f"times as fast as the best of torch, {case}"
        claims.append(Claim(text, min(best), 1.2))
    naive = times_faster(rows, JMETA, NAIVE)
    if naive is not None:
        claims.append(Claim(f"times as fast as vmap of lax.conv, {case}", naive, 8))
    return rows, claims


def main(argv=None):
    args = options(__doc__, argv)
    rows, claims = [], []
    for tasks, queries in [(2, 5)] if args.quick else [(4, 15), (8, 25)]:
        case_rows, case_claims = one_case(args, tasks, queries)
        rows += case_rows
        claims += case_claims
    report("conv_few_shot", args, rows, [] if args.quick else claims)
    bars(args.out / "conv_few_shot.png", "One meta-gradient, few-shot conv net", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
