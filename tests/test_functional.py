"""Every kind of model keeps every promise of `make_functional`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jmeta import make_functional
from tests.functional_cases import (
    F64,
    IN_FLOAT32,
    ROWS,
    Case,
    LinenBatchNormDropout,
    LinenMLP,
    NnxBatchNormDropout,
    NnxMLP,
    X,
    contents,
    linear,
    linen_row,
    nnx_row,
    random_like,
)
from tests.helpers import F64_SAME, assert_trees_close, compilations

pytestmark = pytest.mark.standard_promotion("Flax's normalisation mixes dtypes")


@pytest.fixture(scope="module", params=ROWS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(ROWS[request.param]())


def test_outputs_and_new_state_are_the_modules(case):
    _, outputs, new_state = case.jitted(*case.arguments())
    case.close((outputs, new_state), case.theirs[1:])
    assert np.abs(outputs).max() > 0.1
    if case.row.keyed and case.state is not None:
        same = jax.tree.map(jnp.array_equal, new_state, case.state)
        assert not any(jax.tree.leaves(same))


def test_gradients_are_the_modules_and_reach_every_leaf(case):
    grads, _, _ = case.jitted(*case.arguments())
    case.close(grads, case.theirs[0])
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all()
        used = path[0].key not in case.row.unused
        assert (np.abs(leaf).max() > 1e-4) == used


def test_calling_twice_and_compiled_gives_the_same(case):
    first = case.call(*case.arguments())
    assert_trees_close(case.call(*case.arguments()), first, 0.0)
    case.close(case.jitted(*case.arguments())[1:], first)
    with compilations() as compiled:
        case.jitted(*case.arguments())
    assert not compiled


def test_vmap_over_everything_is_a_loop(case):
    trees = [random_like(case.params, seed) for seed in (5, 6)]
    states = [case.state and random_like(case.state, seed) for seed in (5, 6)]
    inputs = [case.row.inputs, case.row.inputs[::-1]]
    keys = [case.key, jax.random.key(5) if case.row.keyed else None]
    each = list(zip(trees, states, inputs, keys, strict=True))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    looped = [case.jitted(*arguments) for arguments in each]
    case.close(
        jax.jit(jax.vmap(case.ours))(*stacked),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped),
    )


def test_scan_of_training_steps_is_a_loop(case):
    def step(ours, carry, key):
        params, state = carry
        grads, _, state = ours(params, state, case.row.inputs, key)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), state

    @jax.jit
    def scanned(carry, keys):
        def body(carry, key):
            return step(case.ours, carry, key), None

        return jax.lax.scan(body, carry, keys, length=3)[0]

    keys = jax.random.split(jax.random.key(6), 3) if case.row.keyed else None
    first = carry = case.params, case.state
    for i in range(3):
        carry = step(case.jitted, carry, None if keys is None else keys[i])
    case.close(scanned(first, keys), carry)


def test_the_model_given_in_never_changes():
    for make in ROWS.values():
        row = make()
        before = contents(row)
        case = Case(row)
        jax.eval_shape(case.ours, *case.arguments())
        assert before[0] == contents(row)[0]
        assert_trees_close(contents(row)[1], before[1], 0.0)


NNX_ROWS = [name for name in ROWS if name.startswith("nnx")]


@pytest.mark.parametrize("name", NNX_ROWS)
def test_nnx_update_is_the_way_back(name):
    case = Case(ROWS[name]())
    model = ROWS[name]().model
    new = random_like(case.params, 7)
    nnx.update(model, new)
    again = make_functional(model, **case.row.options)
    assert_trees_close(again[1], new, 0.0)


def test_later_changes_of_an_nnx_module_have_no_effect():
    model = NnxBatchNormDropout()
    apply_fn, params, state = make_functional(model)
    x, key = IN_FLOAT32, jax.random.key(0)
    before = apply_fn(params, state, x, key=key)
    nnx.update(model, jax.tree.map(jnp.zeros_like, params))
    model.eval()
    assert_trees_close(apply_fn(params, state, x, key=key), before, 0.0)


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("linen_tied", {"['Embed_0']['embedding']": (5, 3)}),
        (
            "nnx_tied",
            {
                "['first']['bias']": (3,),
                "['first']['kernel']": (3, 3),
                "['second']['bias']": (3,),
            },
        ),
        ("nnx_lora", {"['lora_a']": (3, 2), "['lora_b']": (2, 2)}),
        ("nnx_head", {"['head']['bias']": (2,), "['head']['kernel']": (4, 2)}),
        (
            "nnx_list",
            {
                "['layers'][0]['bias']": (3,),
                "['layers'][0]['kernel']": (3, 3),
                "['layers'][1]['bias']": (3,),
                "['layers'][1]['kernel']": (3, 3),
            },
        ),
    ],
)
def test_params_are_plain_dicts_of_the_selected_leaves(name, leaves):
    case = Case(ROWS[name]())
    paths = jax.tree.leaves_with_path(case.params)
    assert {jax.tree_util.keystr(p): x.shape for p, x in paths} == leaves
    assert all(isinstance(x, jax.Array) for _, x in paths)
    assert case.state is None


@pytest.mark.parametrize("name", ["linen_batchnorm_dropout", "nnx_batchnorm_dropout"])
def test_without_state_the_statistics_are_used_and_not_returned(name):
    case = Case(ROWS[name]())
    apply_fn, params = make_functional(case.row.model, case.row.variables, state=False)
    outputs = apply_fn(params, case.row.inputs, key=case.key)
    case.close(outputs, case.call(*case.arguments())[0])


@pytest.mark.parametrize("name", ["linen_batchnorm_dropout", "nnx_batchnorm_dropout"])
def test_a_key_decides_all_randomness(name):
    case = Case(ROWS[name]())
    params, state, x, key = case.arguments()
    outputs, _ = case.call(params, state, x, key)
    other, _ = case.call(params, state, x, jax.random.key(9))
    assert np.abs(outputs - other).max() > 0.1
    legacy, _ = case.call(params, state, x, jax.random.PRNGKey(4))
    case.close(legacy, outputs)
    assert not any("rng" in str(p) for p, _ in jax.tree.leaves_with_path(state))


@pytest.mark.parametrize("name", ["linen_batchnorm_dropout", "nnx_batchnorm_dropout"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_a_stochastic_module_asks_for_its_key(name, transform):
    case = Case(ROWS[name]())
    x = case.row.inputs
    with pytest.raises(ValueError, match=r"pass `apply_fn\(..., key=key\)`"):
        transform(lambda x: case.apply_fn(case.params, case.state, x))(x[None])


def test_method_is_a_name_or_a_function_of_the_module():
    for row in (linen_row(LinenMLP()), nnx_row(NnxMLP())):

        def made(method, x=X, row=row):
            apply_fn, params = make_functional(row.model, row.variables, method=method)
            return apply_fn(params, x)

        encoded = made("encode")
        assert_trees_close(made(lambda module, x: module.encode(x)), encoded, 0.0)
        assert_trees_close(made(type(row.model).encode), encoded, 0.0)
        submodule = made(lambda module, x: module.encoder(x))
        assert_trees_close(jnp.tanh(submodule), encoded, F64_SAME)
    assert_trees_close(made("encoder"), submodule, 0.0)


def test_arguments_are_passed_on():
    for row in (linen_row(LinenMLP()), nnx_row(NnxMLP())):
        apply_fn, params = make_functional(row.model, row.variables)
        plain = apply_fn(params, row.inputs)
        offset = 0.0 if row.variables else row.model.offset
        for got in (
            apply_fn(params, row.inputs, 3.0),
            apply_fn(params, row.inputs, scale=3.0),
            apply_fn(params, x=row.inputs, scale=3.0, key=jax.random.key(0)),
        ):
            assert_trees_close(got - offset, 3.0 * (plain - offset), F64_SAME)


class NnxSow(nnx.Module):
    def __init__(self):
        self.linear = linear()
        self.count = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.count[...] += 1.0
        self.sow(nnx.Intermediate, "seen", x)
        return self.linear(x)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_is_sown_is_not_state():
    x = X
    model = NnxSow()
    model(x)
    apply_fn, params, state = make_functional(model)
    assert_trees_close(state, {"count": 1.0}, 0.0)
    assert_trees_close(apply_fn(params, state, x)[1], {"count": 2.0}, 0.0)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Intermediate))) == 1

    row = ROWS["linen_batchnorm_dropout"]()
    sown = {"intermediates": {"normalised": (x,)}}
    _, _, state = make_functional(row.model, row.variables | sown)
    assert list(state) == ["batch_stats"]


def test_stacked_streams_get_a_key_for_each_layer():
    @nnx.split_rngs(splits=4)
    @nnx.vmap
    def layers(rngs):
        return nnx.Dropout(0.5, rngs=rngs)

    class Stack(nnx.Module):
        def __init__(self):
            self.layers = layers(nnx.Rngs(0))
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            dropped = nnx.vmap(lambda layer, x: layer(x))(self.layers, x)
            return self.scale * dropped

    apply_fn, params = make_functional(Stack())
    outputs = apply_fn(params, jnp.ones((4, 64)), key=jax.random.key(0))
    assert len(np.unique(np.asarray(outputs), axis=0)) == 4


def test_a_new_state_keeps_its_dtypes():
    # flax makes float32 statistics, and of float64 inputs float64 ones
    variables = jax.tree.map(F64, ROWS["linen_batchnorm_dropout"]().variables)
    variables["batch_stats"] = jax.tree.map(jnp.float32, variables["batch_stats"])
    apply_fn, params, state = make_functional(LinenBatchNormDropout(), variables)
    _, new_state = apply_fn(params, state, X, key=jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(new_state)} == {jnp.dtype(jnp.float32)}


class _LinenNoise(linen.Module):
    @linen.compact
    def __call__(self, x, *, key=None):
        scale = self.param("scale", linen.initializers.ones, (3,), x.dtype)
        return scale * x if key is None else scale * x + jax.random.normal(key, x.shape)


class _NnxNoise(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones(3))

    def __call__(self, x, key=None):
        scale = self.scale[...]
        return scale * x if key is None else scale * x + jax.random.normal(key, x.shape)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_module_whose_own_call_has_a_key_is_given_it(kind, key):
    x = jnp.arange(3.0)
    if kind == "linen":
        module = _LinenNoise()
        apply_fn, params = make_functional(module, module.init(key, x))
    else:
        apply_fn, params = make_functional(_NnxNoise())
    noise = jax.random.normal(key, x.shape)
    assert_trees_close(apply_fn(params, x, key=key), x + noise, F64_SAME)
    assert_trees_close(apply_fn(params, x), x, F64_SAME)
