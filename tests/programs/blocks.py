"""What the inner losses of the programs are made of, as source text.

A block is a function `NAME(p, x)` of its parameters and an array `[2, 3]` to another
such array, smooth where it is met, so that any two can follow one another.
"""

import random
from typing import NamedTuple


class Block(NamedTuple):
    """A block's parameters and source.

    Attributes:
        shapes: Of its parameters, by name.
        source: Defines the function.
    """

    shapes: dict[str, tuple[int, ...]]
    source: str


PLAIN = {
    "dense": Block(
        {"w": (3, 3), "b": (3,)},
        "return ACTIVATION(x @ p['w'] + p['b'][None])",
    ),
    "conv": Block(
        {"k": (1, 1, 3)},
        "y = jax.lax.conv_general_dilated(x[:, None], p['k'], (1,), 'SAME')\n"
        "return x + ACTIVATION(y[:, 0])",
    ),
    "scan": Block(
        {"u": (3, 3)},
        "cell = lambda h, row: (jnp.tanh(row + h @ p['u']),) * 2\n"
        "return jax.lax.scan(cell, 0 * (x[0] + p['u'][0]), x)[1]",
    ),
    "layernorm": Block(
        {"g": (3,), "b": (3,)},
        "centered = x - x.mean(1, keepdims=True)\n"
        "var = (centered**2).mean(1, keepdims=True)\n"
        "return centered / jnp.sqrt(var + 0.01) * p['g'][None] + p['b'][None]",
    ),
    "attention": Block(
        {"q": (3, 2), "v": (3, 3)},
        "weights = jax.nn.softmax((x @ p['q']) @ (x @ p['q']).T, axis=1)\n"
        "return x + weights @ (x @ p['v'])",
    ),
    "gather": Block(
        {"table": (4, 3)},
        "return jnp.tanh(x) * p['table'][jnp.array([2, 0])]"
        " + p['table'][jnp.array([1, 2])]",
    ),
    "cond": Block(
        {"s": (3,)},
        "up = lambda x: jnp.sin(x * p['s'][None])\n"
        "down = lambda x: x * p['s'][None] ** 2\n"
        "return jax.lax.cond(jnp.sum(x) > SMALL, up, down, x)",
    ),
    "switch": Block(
        {"s": (3,)},
        "branches = [jnp.sin, jnp.tanh, lambda x: x**2 / 2]\n"
        "index = (jnp.abs(p['s'][0]) > SMALL).astype(int) + 1\n"
        "return jax.lax.switch(index, branches, x * p['s'][None])",
    ),
    "while": Block(
        {"s": (3,)},
        "start = 0, jax.lax.stop_gradient(jnp.sum(x))\n"
        "turn = lambda c: (c[0] + 1, jnp.cos(c[1]))\n"
        "n, c = jax.lax.while_loop(lambda c: (c[0] < 3) & (c[1] < 9), turn, start)\n"
        "grow = lambda i, h: jnp.sin(h * p['s'][None])\n"
        "grown = jax.lax.fori_loop(0, 2, grow, x * p['s'][None])\n"
        "return x * c + grown / (1 + n.astype(x.dtype))",
    ),
    "complex": Block(
        {"phase": (3,), "r": (3,)},
        "z = jax.lax.complex(jnp.cos(p['phase']), jnp.sin(p['phase']))\n"
        "z = jnp.fft.fft(z[None] * jax.lax.complex(x, jnp.zeros_like(x)))\n"
        "z = z + jax.lax.complex(p['r'], p['phase'])[None]\n"
        "return jnp.real(z * z) / 4 + jnp.abs(z) / 4",
    ),
    "jit": Block(
        {"s": (3,)},
        "return jax.jit(lambda s, x: jnp.sin(s[None] * x) + x)(p['s'], x)",
    ),
    "remat": Block(
        {"w": (3, 3)},
        "return jax.checkpoint(lambda w: ACTIVATION(jnp.tanh(x @ w) @ w))(p['w'])",
    ),
    "vmap": Block(
        {"w": (3, 3)},
        "return jax.vmap(lambda row: jnp.sin(p['w'] @ row) + row[::-1])(x)",
    ),
    "grad": Block(
        {"w": (3, 3)},
        # what differs over devices has a gradient of its own on each
        "x = x + 0 * p['w'][:1]\n"
        "energy = lambda x: jnp.sum(jnp.cosh(jnp.tanh(x @ p['w'])))\n"
        "return x - 0.3 * jax.grad(energy)(x)",
    ),
    "sort": Block(
        {"s": (3,)},
        "return jnp.sort(x * p['s'][None], axis=1) + jnp.cumsum(x, axis=0)",
    ),
    "solve": Block(
        {"w": (3, 3)},
        "matrix = p['w'] @ p['w'].T + jnp.eye(3)\n"
        "return jnp.linalg.solve(matrix, x.T).T",
    ),
}

ACTIVATIONS = (
    *("jnp.tanh", "jax.nn.relu", "jax.nn.silu", "jax.nn.softplus", "jax.nn.gelu"),
    *("jax.nn.log_sigmoid", "jnp.sinc", "jax.nn.elu", "jax.nn.relu6"),
)

# a function and its derivative
TRUE = (
    ("jnp.sin(x)", "jnp.cos(x)"),
    ("x * jnp.exp(-x * x)", "(1 - 2 * x * x) * jnp.exp(-x * x)"),
    ("jnp.log1p(x * x)", "2 * x / (1 + x * x)"),
)
# a function and what stands in for its derivative
SURROGATE = (
    ("(x > 0).astype(x.dtype)", "1 / (1 + x * x)"),
    ("x", "1 / (1 + jnp.sum(x * x))"),
    ("jnp.round(x)", "jnp.exp(-x * x)"),
    ("jnp.sin(x)", "(1 + 0.2 * jnp.tanh(x))"),
)

RULES = {
    "jvp": """\
@jax.custom_jvp
def NAME_rule(x):
    return BODY


@NAME_rule.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return BODY, SLOPE * t
""",
    "jvps": """\
@jax.custom_jvp
def NAME_rule(x):
    return BODY


NAME_rule.defjvps(lambda t, y, x: SLOPE * t)
""",
    "vjp": """\
@jax.custom_vjp
def NAME_rule(x):
    return BODY


NAME_rule.defvjp(lambda x: (BODY, x), lambda x, g: (SLOPE * g,))
""",
    "gradient": """\
@jax.custom_gradient
def NAME_rule(x):
    return BODY, lambda g: SLOPE * g
""",
}

NAMES = (
    *PLAIN,
    *(f"{kind}_{rule}" for rule in RULES for kind in ("true", "surrogate")),
)
"""Every kind of block; those with a rule are named after it."""


def block(kind: str, name: str, rng: random.Random) -> Block:
    """Write a block of this kind as the function `name`."""
    if kind in PLAIN:
        shapes, body = PLAIN[kind]
        body = body.replace("ACTIVATION", rng.choice(ACTIVATIONS))
        body = body.replace("SMALL", rng.choice(("-0.3", "0.3", "0.6")))
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        return Block(shapes, f"def {name}(p, x):\n{lines}")
    kind, rule = kind.split("_")
    body, slope = rng.choice(SURROGATE if kind == "surrogate" else TRUE)
    rule = RULES[rule].replace("NAME", name).replace("BODY", body)
    rule = rule.replace("SLOPE", slope if " / " not in slope else f"({slope})")
    call = f"x + {name}_rule(x * p['s'][None])"
    source = f"{rule}\n\ndef {name}(p, x):\n    return {call}\n"
    return Block({"s": (3,)}, source)
