"""Foreign derivative rules by name, in `plan` and in `explain`."""

import re

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import ForwardMode, Unroll
from jmeta._jaxpr.foreign_rules import foreign_rules
from jmeta._jaxpr.notes import notes, with_note
from tests.rule_cases import RULES, by_jvp, by_odeint, spike

NAMES = {
    "custom_jvp": r"`spike` \(rule_cases.py:\d+\)",
    "custom_vjp": r"`spike` \(rule_cases.py:\d+\)",
    "defjvps": r"`spike` \(rule_cases.py:\d+\)",
    "custom_gradient": r"`by_custom_gradient` \(rule_cases.py:\d+\)",
    "function of JAX's": r"`sin` of JAX with the rule `of_sin` \(rule_cases.py:\d+\)",
    "callable rule": r"`sin` of JAX with the rule `Rule` \(rule_cases.py:\d+\)",
    "jitted rule": r"`sin` of JAX with the rule `of_sin` \(rule_cases.py:\d+\)",
    "partial rule": r"`sin` of JAX with the rule `of_sin` \(rule_cases.py:\d+\)",
    "lambda": r"`<lambda>` \(rule_cases.py:\d+\)",
    "custom_linear_solve": r"`<lambda>` \(rule_cases.py:\d+\)",
    "custom_root": r"`\w+`( of JAX)?, called at rule_cases.py:\d+ in by_root",
    "primitive": r"`shrinking`, called at rule_cases.py:\d+ in <lambda>",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_users_line_is_named(name):
    found = foreign_rules(jax.make_jaxpr(RULES[name])(jnp.ones(3)).jaxpr)
    assert re.fullmatch(NAMES[name], found[0])


def test_each_is_named_once():
    fun = lambda x: RULES["custom_jvp"](RULES["lambda"](x)) + RULES["custom_jvp"](x)
    assert len(foreign_rules(jax.make_jaxpr(fun)(jnp.ones(3)).jaxpr)) == 2
    assert foreign_rules(jax.make_jaxpr(by_odeint)(jnp.ones(3)).jaxpr)
    assert not foreign_rules(jax.make_jaxpr(jax.nn.relu)(jnp.ones(3)).jaxpr)


def test_a_note_stays():
    fun = with_note(lambda x: jnp.sin(x) ** 2, 'of "it"')
    loop = lambda x: jax.lax.scan(lambda c, _: (fun(c), None), x, length=2)[0]
    after = jax.vmap(jax.jit(jax.grad(jax.checkpoint(loop))))
    assert notes(jax.make_jaxpr(after)(jnp.ones(2)).jaxpr) == ('of "it"',)


spiking = by_jvp(spike)


def meta_loss(adjoint, activation=spiking):
    def fun(w):
        loss = lambda w: jnp.sum((activation(w) - 1) ** 2)
        tx = jmeta.optim.sgd(lr=0.1)
        return jmeta.inner_loop(loss, w, tx, 3, adjoint=adjoint).params.sum()

    return fun


WHY = r"reverse over reverse, because of the derivative rule of `spike` \(\S+\)"


def test_explain_says_why():
    explanation = jmeta.explain(jax.jit(meta_loss(Unroll())), jnp.ones(3))
    assert re.fullmatch(WHY, explanation.notes[0])
    assert str(explanation).endswith(f"\ninner loop: {explanation.notes[0]}")
    assert explanation.inputs[0].reaches
    for other in (
        meta_loss(Unroll(mixed=False)),
        meta_loss(ForwardMode()),
        meta_loss(Unroll(), jax.nn.relu),
    ):
        assert not jmeta.explain(other, jnp.ones(3)).notes


def test_plan_says_why():
    adjoints = Unroll(), Unroll(mixed=False)
    table = jmeta.plan(meta_loss, jnp.ones(3), adjoints=adjoints)
    first, second = table.candidates
    assert re.fullmatch(WHY, first.notes[0])
    assert not second.notes
    assert re.search(rf"Unroll\(\) .*{WHY}$", str(table), re.MULTILINE)
