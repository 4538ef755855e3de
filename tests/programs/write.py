"""The source text of a program: jmeta's loop, a Python loop, and what is compared."""

import random

from tests.programs import blocks
from tests.programs.compositions import COMPOSED, EACH
from tests.programs.draw import Choices, draw
from tests.programs.optimizers import OPTIMIZERS
from tests.programs.reference import by_python

HEADER = """\
# program {seed}: {features}
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax

jax.config.update("jax_enable_x64", True)
"""

FOOTER = """
print("jmeta:", result, "expected:", expected, sep="\\n")
differ = lambda a, b: float(jnp.max(jnp.abs(a - b)))
print("difference:", jax.tree.map(differ, result, expected))
"""

IMPORTS = """\
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

import jmeta
"""

PER_LEAF = """\
def per_leaf(value, params):
    if not isinstance(value, jmeta.PerLeaf):
        return jax.tree.map(lambda p: value, params)
    tree = {name: value.tree[name] for name in params}
    return {name: jax.tree.map(lambda p: tree[name], params[name]) for name in params}
"""

UPDATE = """\
def update(theta, t, grads, opt_state, params):
    tx = transform(theta)
    if opt_state is None:
        opt_state = tx.init(params)
    opt_state = optax.tree.set(opt_state, **settings(theta, t))
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
"""


def program(seed: int) -> str:
    """A program without its header and footer: it sets `result` and `expected`."""
    c = draw(seed)
    rng = random.Random(seed)
    names = [f"block_{letter}" for letter in "ab"[: len(c.blocks)]]
    made = [blocks.block(k, n, rng) for k, n in zip(c.blocks, names, strict=True)]
    parts = [
        IMPORTS,
        _constants(c, dict(zip("ab", (block.shapes for block in made), strict=False))),
        *(block.source for block in made),
        _model(c, names),
        _loss(c),
        _optimizer(c),
        _outer(c),
        _by_jmeta(c),
        by_python(c),
    ]
    if c.composition not in ("grad", "grad_of_grad"):
        parts.append(EACH)
    return "\n\n".join([*parts, COMPOSED[c.composition]])


def whole(seed: int) -> str:
    """The same as a script that can be pasted and run."""
    features = ", ".join(sorted(draw(seed).features()))
    return HEADER.format(seed=seed, features=features) + program(seed) + FOOTER


def _constants(c: Choices, shapes: dict) -> str:
    """Weights, data and the two tasks' outer quantities."""
    several = "STEPS, " if c.data == "batches" else ""
    labels = f"jnp.asarray(rng.integers(0, 3, size=({several}2,)))"
    weights = {
        letter: ", ".join(f'"{name}": normal{shape}' for name, shape in sizes.items())
        for letter, sizes in shapes.items()
    }
    weights = ", ".join(f'"{letter}": {{{w}}}' for letter, w in weights.items())
    steps = "STEPS + 1, "
    frozen = "trainable" in c.extras
    moved = "{'a': W['a']}" if frozen else "W"
    theta = {
        "weights": "jax.tree.map(lambda w: w + 0.1 * normal(*w.shape), W)",
        "lr": _rate(c, list(shapes)),
        "second": _second(c),
        "data": f"normal({several}2, 3)",
        "captured": "0.8 + 0.2 * normal(3)",
        "perturbations": "jax.tree.map("
        f"lambda w: 0.1 * normal({steps}*w.shape), {moved})",
    }
    drawn = [f'    "{n}": {theta[n]},\n' for n in theta if n in c.quantities]
    return f"""\
rng = np.random.default_rng({c.seed})
normal = lambda *shape: jnp.asarray(0.6 * rng.normal(size=shape))
STEPS = {c.steps}
W = {{{weights}}}
X = normal({several}2, 3)
Y = {labels if c.loss == "labels" else f"normal({several}2, 3)"}
C = jnp.array([0.9, 1.2, 0.7])
thetas = [{{
{"".join(drawn)}}} for _ in range(2)]
actives = {c.active if c.traced else (c.steps, c.steps)}
"""


def _rate(c: Choices, letters: list[str]) -> str:
    uniform = "jnp.asarray(rng.uniform(0.05, 0.15{}))"
    if c.rate == "per_step":
        return uniform.format(f", {c.steps}")
    if c.rate == "per_leaf":
        rates = ", ".join(f'"{x}": {uniform.format("")}' for x in letters)
        return f"{{{rates}}}"
    return uniform.format("")


def _second(c: Choices) -> str:
    value = (OPTIMIZERS[c.optimizer].second or ("", "0.0"))[1]
    shift = "jnp.asarray(rng.uniform(0.9, 1.02))"
    if value.startswith("("):
        return f"{shift} * jnp.array({value})"
    return f"{shift} * {value}"


def _model(c: Choices, names: list[str]) -> str:
    lines = [f"h = x * {c.quantity('captured', 'C')}[None]"]
    for name in names:
        lines.append(f'h = {name}(w["{name[-1]}"], h)')
    if "state" in c.extras:
        lines.append('h = h * (1 + 0.1 * jnp.tanh(state["seen"]))')
    if "key" in c.extras:
        lines.append("h = h + 0.1 * jax.random.normal(key, h.shape)")
    if "state" in c.extras:
        lines.append('state = {"seen": state["seen"] + jnp.mean(h)}')
    lines.append("size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(w))")
    lines.append("return (h, size), state")
    body = "".join(f"    {line}\n" for line in lines)
    return f"def model(theta, w, x, state, key):\n{body}"


def _loss(c: Choices) -> str:
    decay = "0.5" if c.implicit else "0.05"
    of_h = {
        "square": "jnp.mean((h - y) ** 2)",
        "cosh": "jnp.mean(jnp.log(jnp.cosh(h - y)))",
        "labels": "-jnp.mean(jax.nn.log_softmax(h)[jnp.arange(2), y])",
        "weighted": f"jnp.mean({c.quantity('captured', 'C')}[None] * (h - y) ** 2)",
    }[c.loss]
    given = 'loss, {"mean": jnp.mean(h**2)}' if "aux" in c.extras else "loss, None"
    return f"""\
def loss_of(theta, outputs, y):
    h, size = outputs
    loss = {of_h} + {decay} * size
    return {given}
"""


def _optimizer(c: Choices) -> str:
    optimizer = OPTIMIZERS[c.optimizer]
    lr, second, overrides = "0.1", optimizer.second, []
    learned = 'theta["lr"]'
    if "lr" in c.quantities:
        at = {
            "number": (learned, learned),
            "constructor": (learned, learned),
            "per_step": (learned, f"{learned}[t]"),
            "callable": (f"lambda t: {learned} * 0.9**t", f"{learned} * 0.9**t"),
            "per_leaf": (f"jmeta.PerLeaf({learned})",) * 2,
        }[c.rate]
        if optimizer.lr_name is None:
            lr = f"lambda t: {at[1]}" if at[0] != at[1] or "[t]" in at[1] else learned
        elif c.rate == "constructor":
            lr = learned
            overrides.append((optimizer.lr_name, None, learned))
        else:
            overrides.append((optimizer.lr_name, *at))
    value = second[1] if second else ""
    if second and "second" in c.quantities:
        value, learned = _second_value(second[1])
        if optimizer.lr_name is None:
            value = learned
        else:
            overrides.append((second[0], learned, learned))
            value = second[1]
    source = optimizer.source.replace("LR", lr).replace("SECOND", value)
    hyperparams = ", ".join(f'"{n}": {v}' for n, v, _ in overrides if v)
    by_name = {n: f'"{n}": {v}' for n, _, v in overrides}
    if optimizer.by_hand and second:
        by_name.setdefault("lr", '"lr": 0.1')
        by_name.setdefault(second[0], f'"{second[0]}": {second[1]}')
    rule = optimizer.by_hand or UPDATE
    return f"""\
def transform(theta):
    return {source}


def hyperparams(theta):
    return {{{hyperparams}}}


def settings(theta, t):
    # of the reference, at step t
    return {{{", ".join(by_name.values())}}}


{PER_LEAF + chr(10) * 2 if optimizer.by_hand else ""}{rule}"""


def _second_value(value: str) -> tuple[str, str]:
    learned = 'theta["second"]'
    if value.startswith("("):
        learned = f"({learned}[0], {learned}[1])"
    return value, learned


def _outer(c: Choices) -> str:
    lines = ["leaves = jax.tree.leaves(params)"]
    lines.append("wave = lambda p: 1 + jnp.arange(float(p.size)).reshape(p.shape)")
    lines.append("total = sum(jnp.sum(wave(p) * jnp.sin(p + 0.3)) for p in leaves)")
    if "losses" in c.extras:
        lines.append("total = total + jnp.sum(losses**2)")
    if "aux" in c.extras:
        lines.append('total = total + jnp.sum(aux["mean"])')
    if "history" in c.extras:
        lines.append("for p in jax.tree.leaves(history):")
        lines.append("    total = total + jnp.sum(p**2)")
    lines.append("return total")
    body = "".join(f"    {line}\n" for line in lines)
    return f"def outer(params, losses, aux, history):\n{body}"


def _by_jmeta(c: Choices) -> str:
    has_state, has_key = "state" in c.extras, "key" in c.extras
    takes = ["w", *["state"] * has_state]
    x, y = c.quantity("data", "X"), "Y"
    if c.pair:
        takes.append("x")
    elif c.data != "captured":
        takes.append("batch")
    arguments = ", ".join([*takes, *["key"] * has_key])
    lines = [] if c.pair else [f"x, y = {'batch' if 'batch' in takes else f'{x}, {y}'}"]
    state, key = "state" if has_state else "None", "key" if has_key else "None"
    lines.append(f"outputs, new = model(theta, w, x, {state}, {key})")
    given = "outputs" if c.pair else "loss_of(theta, outputs, y)"
    if not c.pair and "aux" not in c.extras:
        given += "[0]"
    lines.append(f"return ({given}, new)" if has_state else f"return {given}")
    body = "".join(f"        {line}\n" for line in lines)
    options = {f"{c.data}=({x}, {y})": c.data != "captured"}
    options["hyperparams=hyperparams(theta)"] = True
    aux = "" if "aux" in c.extras else "[0]"
    options[f"loss_fn=lambda outputs, y: loss_of(theta, outputs, y){aux}"] = c.pair
    options["has_aux=True"] = "aux" in c.extras
    options['state={"seen": jnp.zeros(())}'] = has_state
    options["key=jax.random.key(7)"] = has_key
    options["history=True"] = "history" in c.extras
    options['trainable=lambda path: path[0] != "b"'] = "trainable" in c.extras
    options["active=active"] = c.traced
    options[f"grad_callback={c.callback}"] = "callback" in c.extras
    d = 'theta["perturbations"]'
    if "trainable" in c.extras:
        d = f'{{**{d}, "b": jax.tree.map(lambda w: None, W["b"])}}'
    options[f"perturbations={d}"] = "perturbations" in c.quantities
    options[f"adjoint={_adjoint(c)}"] = True
    given = "".join(f"        {option},\n" for option, on in options.items() if on)
    return f"""\
def by_jmeta(theta, active):
    def apply_fn({arguments}):
{body}
    run = jmeta.inner_loop(
        apply_fn,
        {c.quantity("weights", "W")},
        transform(theta),
        STEPS,
{given}    )
    return outer(run.params, run.losses, run.aux, run.history)
"""


def _adjoint(c: Choices) -> str:
    unroll = f"unroll={c.unroll}"
    options = {
        "mixed": f"checkpoint={c.checkpoint}, {unroll}",
        "plain": f"mixed=False, checkpoint={c.checkpoint}, {unroll}",
        "nested": f"mixed={c.mixed}, checkpoint='nested', {unroll}",
        "last": f"last={c.last}, mixed={c.mixed}, checkpoint={c.checkpoint}",
        "order1": f"order=1, checkpoint={c.checkpoint}",
    }
    if c.adjoint in options:
        return f"jmeta.Unroll({options[c.adjoint]})"
    if c.adjoint == "forward":
        return "jmeta.ForwardMode(limit=400)"
    # GMRES stops on what differs between devices
    alone = c.composition != "shard_map"
    solver = "GMRES(tol=1e-13, restart=40)" if alone else "NormalCG(tol=1e-15)"
    condition = ", condition=jmeta.FixedPoint()" * (c.adjoint == "fixed_point")
    return f"jmeta.Implicit(solver=jmeta.{solver}{condition})"
