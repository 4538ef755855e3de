"""What do the default adjoint and layers that are recomputed save on a transformer?

Gradient of the loss after 4 inner SGD steps with respect to the weights and learning
rate: 6 layers scanned, width 256, 128 tokens, batch 8. The plain unroll stores every
step's and every layer's intermediates; jmeta's default stores weights and inner
gradients, with `jax.checkpoint` around a layer. `--compile-only` gives memory alone.
"""

import math
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _harness import Row, compiled, measure, options
from _peers import higher, torch_func, torchopt
from _problem import Problem, hypergradient
from _report import Claim, bars, by_name, report, times_faster

import jmeta

HEADS, VOCABULARY = 8, 256
DEFAULT, PLAIN = "Unroll(), layers recomputed", "plain unroll"
VARIANTS = {
    PLAIN: (jmeta.Unroll(mixed=False, checkpoint=None), False),
    "plain unroll, layers recomputed": (
        jmeta.Unroll(mixed=False, checkpoint=None),
        True,
    ),
    "Unroll()": (jmeta.Unroll(), False),
    DEFAULT: (jmeta.Unroll(), True),
    "Unroll, nested, layers recomputed": (jmeta.Unroll(checkpoint="nested"), True),
}


def transformer(recompute: bool, params, tokens: jax.Array) -> jax.Array:
    """Scores `[batch * tokens, vocabulary]` of the next token."""
    embedding, layers, head = params
    block = jax.checkpoint(layer, prevent_cse=False) if recompute else layer
    x = embedding["weight"][tokens]
    x, _ = jax.lax.scan(lambda x, params: (block(params, x), None), x, layers)
    return x.reshape(-1, x.shape[-1]) @ head["weight"]


def layer(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Causal attention and a two-layer network, `[batch, tokens, width]`."""
    batch, tokens, width = x.shape
    qkv = normalize(x) @ params["qkv"]
    q, k, v = qkv.reshape(batch, tokens, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(width // HEADS)
    ahead = np.triu(np.ones((1, 1, tokens, tokens), bool), 1)
    mixed = jax.nn.softmax(jnp.where(ahead, -1e9, scores)) @ v
    x = x + mixed.swapaxes(1, 2).reshape(x.shape) @ params["out"]
    return x + jax.nn.gelu(normalize(x) @ params["up"]) @ params["down"]


def normalize(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def transformer_module(problem: Problem):
    """The same as a torch module, its weights stacked and in JAX's layouts too."""
    import torch
    from torch.nn import functional

    def rms(x):
        return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6)

    class Transformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            names = [name for layer in problem.params for name in layer]
            for i in range(len(names)):
                self.register_parameter(f"p{i}", torch.nn.Parameter(torch.zeros(0)))

        def forward(self, tokens):
            embedding, qkvs, outs, ups, downs, head = self.parameters()
            x = embedding.T[tokens]
            batch, length, width = x.shape
            for qkv, out, up, down in zip(qkvs, outs, ups, downs, strict=True):
                parts = (rms(x) @ qkv).reshape(batch, length, 3, HEADS, -1)
                q, k, v = parts.permute(2, 0, 3, 1, 4)
                scores = q @ k.transpose(-1, -2) / math.sqrt(width // HEADS)
                ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
                weights = scores.masked_fill(ahead.to(x.device), -1e9).softmax(-1)
                x = x + (weights @ v).transpose(1, 2).reshape(x.shape) @ out
                x = x + functional.gelu(rms(x) @ up, approximate="tanh") @ down
            return functional.linear(x.reshape(-1, width), head)

    return Transformer()


def problem(layers: int, width: int, tokens: int, batch: int, steps: int) -> Problem:
    rng = np.random.default_rng(0)

    def weights(*shape):
        return (rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32)

    def texts():
        text = rng.integers(0, VOCABULARY, (1, batch, tokens + 1), dtype=np.int32)
        return text[..., :-1], text[..., 1:].reshape(1, -1)

    stack = {
        "qkv": weights(layers, width, 3 * width),
        "out": weights(layers, width, width),
        "up": weights(layers, width, 4 * width),
        "down": weights(layers, 4 * width, width),
    }
    embedding = weights(VOCABULARY, width) * np.float32(np.sqrt(VOCABULARY))
    params = [{"weight": embedding}, stack, {"weight": weights(width, VOCABULARY)}]
    text = texts()
    return Problem(params, text, texts(), True, steps, lr=0.05, wrt=("params", "lr"))


def main(argv=None):
    compile_only = {"action": "store_true", "help": "memory alone"}
    args = options(__doc__, argv, compile_only=compile_only)
    sizes = (2, 16, 8, 2, 2) if args.quick else (6, 256, 128, 8, 4)
    language = problem(*sizes)
    makers = {
        name: lambda adjoint=adjoint, recompute=recompute: compiled(
            *hypergradient(partial(transformer, recompute), language, adjoint, 1)
        )
        for name, (adjoint, recompute) in VARIANTS.items()
    }
    if args.compile_only:
        rows = [Row("", n, temp_bytes=make().temp_bytes) for n, make in makers.items()]
    else:
        if not args.no_peers:
            makers |= {
                "torch.func": partial(
                    torch_func, transformer_module, language, vmap=False
                ),
                "TorchOpt MetaSGD": partial(torchopt, transformer_module, language),
                "higher": partial(higher, transformer_module, language),
            }
        repeats = min(args.repeats, 5)
        rows = measure("", makers, repeats=repeats, tolerance=1e-2, patience=120)
    found = by_name(rows)
    share = found[PLAIN].temp_bytes / found[DEFAULT].temp_bytes
    claims = [Claim(f"times less memory: {DEFAULT}", share, 12)]
    if not args.compile_only:
        ratio = 1 / times_faster(rows, DEFAULT, PLAIN)
        text = f"of the time of the plain unroll: {DEFAULT}"
        claims.append(Claim(text, ratio, 0.9, at_most=True))
    report("transformer", args, rows, [] if args.quick else claims)
    bars(args.out / "transformer.png", "Through 4 steps of a transformer", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
