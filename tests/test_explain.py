"""`explain` names what reaches the output and what cuts the rest."""

import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import ForwardMode, Unroll
from tests.cases import PLAIN

cut = jax.lax.stop_gradient


@jax.custom_vjp
def only_x(x, y):
    return x * y


only_x.defvjp(lambda x, y: (x * y, y), lambda y, g: (g * y, jnp.zeros_like(y)))


@jax.custom_jvp
def only_y(x, y):
    return x * y


@only_y.defjvp
def _only_y_rule(primals, tangents):
    return only_y(*primals), primals[0] * tangents[1]


def looped(x, y, z):
    """y is cut in the loop, z only decides how long it goes on."""

    def body(carry):
        i, total = carry
        return i + 1, total + x * cut(y)

    return jax.lax.while_loop(lambda carry: carry[0] < z, body, (0, 0.0))[1]


def floor(x):
    return x.astype(int).astype(x.dtype)


def scanned(x, y, z):
    return jax.lax.scan(lambda c, s: (c * cut(x) + s, None), y, jnp.stack([z, z]))[0]


REACHES, UNUSED = "reaches", "unused"
CASES = {
    "product": (lambda x, y, z: x * y, [REACHES, REACHES, UNUSED]),
    "stop": (lambda x, y, z: x * cut(y), [REACHES, "stop_gradient", UNUSED]),
    "partly": (lambda x, y, z: x * cut(x) + z, ["reaches, stop", UNUSED, REACHES]),
    "integer": (lambda x, y, z: x * floor(y), [REACHES, "integer", UNUSED]),
    "where": (lambda x, y, z: jnp.where(x > 0, y, z), ["integer", REACHES, REACHES]),
    "branch": (
        lambda x, y, z: jax.lax.cond(x > 0, lambda: y, lambda: cut(z)),
        ["integer", REACHES, "stop_gradient"],
    ),
    "scan": (scanned, ["stop_gradient", REACHES, REACHES]),
    "while": (looped, [REACHES, "stop_gradient", "integer"]),
    "jit": (jax.jit(lambda x, y, z: cut(x) + y), ["stop_gradient", REACHES, UNUSED]),
    "custom_vjp": (lambda x, y, z: only_x(x, y), [REACHES, "custom rule", UNUSED]),
    "custom_jvp": (lambda x, y, z: only_y(x, y), ["custom rule", REACHES, UNUSED]),
    "twice": (
        lambda x, y, z: cut(cut(x).astype(int)),
        ["stop_gradient"] + [UNUSED] * 2,
    ),
    "relu": (lambda x, y, z: jax.nn.relu(x) + y, [REACHES, REACHES, UNUSED]),
}


@pytest.mark.parametrize("name", CASES)
def test_explains(name):
    fun, expected = CASES[name]
    explanation = jmeta.explain(fun, *map(jnp.float64, (0.3, 0.5, 0.7)))
    for leaf, words in zip(explanation.inputs, expected, strict=True):
        assert leaf.reaches == words.startswith(REACHES)
        assert leaf.unused == (words == UNUSED)
        reasons = {cut.reason for cut in leaf.cuts}
        assert reasons == set(
            re.findall("stop_gradient|integer|custom rule", words)
        ) or (words == "reaches, stop" and reasons == {"stop_gradient"})
        assert all("test_explain.py" in cut.place for cut in leaf.cuts)


def meta_loss(args, adjoint):
    def objective(w, x):
        return jnp.mean((x @ w * args["scale"]) ** 2) + cut(args["stopped"])

    run = jmeta.inner_loop(
        objective,
        args["w"],
        jmeta.optim.sgd(),
        5,  # nested blocks begin at 4
        batch=args["x"],
        hyperparams={"lr": args["lr"]},
        adjoint=adjoint,
    )
    return jnp.sum(run.params**2)


META_ARGS = {
    "w": jnp.ones(2),
    "x": jnp.ones((3, 2)),
    "lr": 0.1,
    "scale": 1.0,
    "stopped": 1.0,
    "idle": 1.0,
    "label": jnp.arange(2),
}


@pytest.mark.parametrize(
    "adjoint", [PLAIN, Unroll(), Unroll(checkpoint="nested"), ForwardMode()], ids=str
)
def test_through_an_inner_loop(adjoint):
    explanation = jmeta.explain(lambda args: meta_loss(args, adjoint), META_ARGS)
    reached = {leaf.name for leaf in explanation.inputs if leaf.reaches}
    assert reached == {f"args[0][{n!r}]" for n in ("w", "x", "lr", "scale")}


def test_takes_shapes():
    structs = jax.eval_shape(lambda: META_ARGS)
    explanation = jmeta.explain(lambda args: meta_loss(args, PLAIN), structs)
    assert sum(leaf.reaches for leaf in explanation.inputs) == 4


def test_text():
    text = str(jmeta.explain(CASES["partly"][0], 1.0, 2.0, 3.0))
    first, second, third = text.split("\n")
    place = r"test_explain.py:\d+ in <lambda>"
    assert re.fullmatch(
        rf"args\[0\]: reaches, some paths cut by stop_gradient \({place}\)", first
    )
    assert (second, third) == ("args[1]: unused", "args[2]: reaches")


def test_dot():
    dot = jmeta.explain(CASES["stop"][0], {"x": 1.0}["x"], 2.0, 3.0).dot()
    assert dot.startswith("digraph {")
    assert "input0 -> output;" in dot
    assert "input1 -> cut0 [style=dashed, color=red];" in dot
    assert "input1 -> output" not in dot
    assert "input2 ->" not in dot
    assert dot.count("{") == dot.count("}") == 1
    quotes = jmeta.explain(lambda args: args["a"], {"a": 1.0}).dot()
    assert "label=\"args[0]['a']\"" in quotes
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=dot.encode(), check=True)
