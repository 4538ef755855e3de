"""Every kind of model keeps every promise of `make_functional`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

from jmeta import make_functional
from tests.helpers import F32, F64_SAME, assert_trees_close, compilations

F64 = jnp.float64


class LinenMLP(nn.Module):
    def setup(self):
        self.encoder = nn.Dense(4, param_dtype=F64)
        self.head = nn.Dense(2, param_dtype=F64)

    def encode(self, x):
        return jnp.tanh(self.encoder(x))

    def __call__(self, x, scale=1.0):
        return scale * self.head(self.encode(x))


class LinenBatchNormDropout(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(6, use_bias=False, param_dtype=F64)(x)
        x = nn.BatchNorm(not train, momentum=0.5, param_dtype=F64)(x)
        self.sow("intermediates", "normalised", x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.Dropout(0.5, rng_collection="other", deterministic=not train)(x)
        return nn.Dense(2, param_dtype=F64)(x)


class LinenTied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(5, 3, param_dtype=F64)
        return embed.attend(jnp.tanh(embed(tokens)))


class NnxMLP(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.encoder = nnx.Linear(3, 4, rngs=rngs, param_dtype=F64)
        self.head = nnx.Linear(4, 2, rngs=rngs, param_dtype=F64)
        self.offset = jnp.arange(2.0)[None]

    def encode(self, x):
        return jnp.tanh(self.encoder(x))

    def __call__(self, x, scale=1.0):
        return scale * self.head(self.encode(x)) + self.offset


class NnxBatchNormDropout(nnx.Module):
    def __init__(self):
        # flax warns where its BatchNorm is fed float64
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 6, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        return self.second(self.dropout2(self.dropout1(x)))


class NnxTied(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 3, rngs=rngs, param_dtype=F64)
        self.second = nnx.Linear(3, 3, rngs=rngs, param_dtype=F64)
        self.second.kernel = self.first.kernel

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class NnxList(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List(
            nnx.Linear(3, 3, rngs=rngs, param_dtype=F64) for _ in range(2)
        )

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def function(params, x, key=None):
    noise = 0.0 if key is None else jax.random.normal(key, x.shape)
    return jnp.tanh((x + noise) @ params["w"]) + params["b"]


X = jax.random.normal(jax.random.key(1), (7, 3))


class Row(NamedTuple):
    """A model, and what it is called with beside its parameters."""

    model: Any
    variables: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed
    inputs: jax.Array = X
    keyed: bool = False
    unused: tuple[str, ...] = ()
    tolerance: float = F64_SAME


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    # positive, for variances among them
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.3, 1.3, x.shape), x.dtype), tree
    )


def linen_row(module: nn.Module, x: jax.Array = X, **kwargs: Any) -> Row:
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(module.init, keys, x)
    variables = random_like(shapes, 2)
    return Row(module, jax.tree.map(F64, variables), inputs=x, **kwargs)


def nnx_row(module: nnx.Module, **kwargs: Any) -> Row:
    for kind in (nnx.Param, nnx.BatchStat):
        values = nnx.to_pure_dict(nnx.state(module, kind))
        nnx.update(module, random_like(values, 2))
    return Row(module, **kwargs)


def evaluating(module: nnx.Module) -> nnx.Module:
    module.eval()
    return module


def linear() -> nnx.Linear:
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=F64)


def lstm() -> nnx.LSTMCell:
    return nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0), param_dtype=F64)


TOKENS = jnp.array([[0, 4, 2, 1, 3], [3, 3, 1, 0, 4]])
SEQUENCES = jax.random.normal(jax.random.key(3), (2, 5, 3))
IN_FLOAT32 = X.astype(jnp.float32)
FUNCTION_PARAMS = random_like({"w": jnp.ones((3, 2)), "b": jnp.ones((7, 2))}, 2)

ROWS: dict[str, Callable[[], Row]] = {
    "linen_mlp": lambda: linen_row(LinenMLP()),
    "linen_method": lambda: linen_row(
        LinenMLP(), options={"method": "encode"}, unused=("head",)
    ),
    "linen_batchnorm_dropout": lambda: linen_row(LinenBatchNormDropout(), keyed=True),
    "linen_tied": lambda: linen_row(LinenTied(), TOKENS),
    "linen_lstm": lambda: linen_row(nn.RNN(nn.LSTMCell(4, param_dtype=F64)), SEQUENCES),
    "nnx_mlp": lambda: nnx_row(NnxMLP()),
    "nnx_method": lambda: nnx_row(
        NnxMLP(), options={"method": "encode"}, unused=("head",)
    ),
    "nnx_head": lambda: nnx_row(NnxMLP(), options={"wrt": nnx.PathContains("head")}),
    "nnx_batchnorm_dropout": lambda: nnx_row(
        NnxBatchNormDropout(), inputs=IN_FLOAT32, keyed=True, tolerance=F32
    ),
    "nnx_batchnorm_eval": lambda: nnx_row(
        evaluating(NnxBatchNormDropout()), inputs=IN_FLOAT32, tolerance=F32
    ),
    "nnx_tied": lambda: nnx_row(NnxTied()),
    "nnx_list": lambda: nnx_row(NnxList()),
    "nnx_lora": lambda: nnx_row(
        nnx.LoRA(3, 2, 2, base_module=linear(), rngs=nnx.Rngs(1), param_dtype=F64),
        options={"wrt": nnx.LoRAParam},
    ),
    "nnx_lstm": lambda: nnx_row(nnx.RNN(lstm(), rngs=nnx.Rngs(1)), inputs=SEQUENCES),
    "function": lambda: Row(function, FUNCTION_PARAMS),
    "function_keyed": lambda: Row(function, FUNCTION_PARAMS, keyed=True),
}


class Case:
    """A row's model made functional, called in one way with state and without."""

    def __init__(self, row: Row):
        self.row = row
        made = make_functional(row.model, row.variables, **row.options)
        self.apply_fn, self.params = made[:2]
        self.state = made[2] if len(made) == 3 else None
        self.key = jax.random.key(4) if row.keyed else None
        self.jitted = jax.jit(self.ours)

    def call(self, params, state, x, key):
        keyed = {} if key is None else {"key": key}
        if state is None:
            return self.apply_fn(params, x, **keyed), None
        return self.apply_fn(params, state, x, **keyed)

    def ours(self, params, state, x, key):
        """Gradient, outputs, new state."""

        def loss(params):
            outputs, new_state = self.call(params, state, x, key)
            return weighted_sum(outputs), (outputs, new_state)

        grads, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
        return grads, outputs, new_state

    @functools.cached_property
    def theirs(self):
        return jax.jit(functools.partial(by_flax, self.row))(*self.arguments())

    def arguments(self):
        return self.params, self.state, self.row.inputs, self.key

    def close(self, actual, expected):
        atol = self.row.tolerance if self.row.tolerance == F32 else 1e-15
        assert_trees_close(actual, expected, self.row.tolerance, atol)


def weighted_sum(outputs):
    return jnp.sum(outputs * jnp.cos(jnp.arange(outputs.size).reshape(outputs.shape)))


def by_flax(row: Row, params: Any, state: Any, x: jax.Array, key: Any) -> Any:
    """Gradient, outputs and new state by the library that the model comes from."""
    if isinstance(row.model, nnx.Module):
        return by_nnx(row, updated(row.model, params, state, key), x)

    def loss(params):
        if not isinstance(row.model, nn.Module):
            outputs, new_state = row.model(params, x, key), {}
        else:
            keys = (
                {"dropout": key, "other": jax.random.fold_in(key, 1)}
                if row.keyed
                else {}
            )
            outputs, new_state = row.model.apply(
                {"params": params, **(state or {})},
                x,
                rngs=keys,
                mutable=["batch_stats"],
                method=row.options.get("method"),
            )
        return weighted_sum(outputs), (outputs, dict(new_state) or None)

    grads, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
    return grads, outputs, new_state


def by_nnx(row: Row, module: nnx.Module, x: jax.Array) -> Any:
    wrt = row.options.get("wrt", nnx.Param)
    if not isinstance(wrt, type):
        wrt = nnx.All(nnx.Param, wrt)
    method = getattr(type(module), row.options.get("method", "__call__"))

    def loss(module):
        outputs = method(module, x)
        return weighted_sum(outputs), outputs

    of_wrt = nnx.DiffState(0, wrt)
    grads, outputs = nnx.grad(loss, argnums=of_wrt, has_aux=True)(module)
    new_state = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
    return nnx.to_pure_dict(grads), outputs, new_state or None


def updated(model: nnx.Module, params: Any, state: Any, key: Any) -> nnx.Module:
    module = nnx.clone(model)
    nnx.update(module, params)
    if state is not None:
        nnx.update(module, state)
    streams = nnx.state(module, nnx.RngKey)
    if key is not None:
        leaves, treedef = jax.tree.flatten(streams)
        keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
        nnx.update(module, treedef.unflatten(keys))
        nnx.update(
            module, jax.tree.map(jnp.zeros_like, nnx.state(module, nnx.RngCount))
        )
    return module


def contents(row: Row) -> Any:
    """Everything that the model given in holds, as numpy arrays."""
    if isinstance(row.model, nnx.Module):
        graphdef, held = nnx.split(row.model)
        held = nnx.to_pure_dict(held)
    else:
        graphdef, held = repr(row.model), row.variables

    def as_numpy(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if typed else x)

    return graphdef, jax.tree.map(as_numpy, held)


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
    def step(carry, key):
        params, state = carry
        grads, _, state = case.jitted(params, state, case.row.inputs, key)
        return (jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), state), None

    keys = jax.random.split(jax.random.key(6), 3) if case.row.keyed else None
    carry = case.params, case.state
    for i in range(3):
        carry, _ = step(carry, None if keys is None else keys[i])
    first = case.params, case.state
    scanned, _ = jax.lax.scan(step, first, keys, length=3)
    case.close(scanned, carry)


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


class NnxLazy(nnx.Module):
    def __init__(self):
        self.linear = linear()

    def __call__(self, x):
        self.mean = nnx.BatchStat(x.mean())
        return self.linear(x)


class LinenLosses(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("losses", "norm", jnp.sum(x))
        return nn.Dense(2, param_dtype=F64)(x)


LINEN = ROWS["linen_mlp"]()
ERRORS = {
    "class": (lambda: make_functional(NnxMLP), TypeError, r"got the class NnxMLP"),
    "linen_class": (lambda: make_functional(LinenMLP), TypeError, r"`LinenMLP\(...\)`"),
    "linen_alone": (
        lambda: make_functional(LINEN.model),
        ValueError,
        r"got LinenMLP alone.*variables = model\.init\(key, inputs\)",
    ),
    "linen_bound": (
        lambda: make_functional(LINEN.model.bind(LINEN.variables)),
        ValueError,
        r"module, variables = model\.unbind\(\)",
    ),
    "no_params": (
        lambda: make_functional(LINEN.model, LINEN.variables["params"]),
        ValueError,
        r"entry 'params'; got \['encoder', 'head'\]",
    ),
    "variables_no_dict": (
        lambda: make_functional(LINEN.model, 3.0),
        ValueError,
        r"entry 'params'; got <class 'float'>",
    ),
    "nnx_with_variables": (
        lambda: make_functional(NnxMLP(), {}),
        ValueError,
        r"leave `variables` out",
    ),
    "wrt_of_linen": (
        lambda: make_functional(LINEN.model, LINEN.variables, wrt=nnx.LoRAParam),
        ValueError,
        r"`wrt` selects variables of an nnx module; got a LinenMLP",
    ),
    "wrt_selects_none": (
        lambda: make_functional(NnxMLP(), wrt=nnx.LoRAParam),
        ValueError,
        r"`wrt` must select a parameter of NnxMLP; got .*LoRAParam",
    ),
    "function_alone": (
        lambda: make_functional(function),
        ValueError,
        r"A function needs its parameters.*got <function function",
    ),
    "method_unbound": (
        lambda: make_functional(NnxMLP.encode),
        ValueError,
        r"got <function NnxMLP.encode",
    ),
    "function_with_method": (
        lambda: make_functional(function, FUNCTION_PARAMS, method="encode"),
        ValueError,
        r"`method` selects a module's method",
    ),
    "number": (lambda: make_functional(3.0), TypeError, r"got a float"),
    "other_params": (
        lambda: make_functional(NnxMLP())[0]({"head": {"bias": X}}, X),
        ValueError,
        r"`params` must be a tree.*Missing: .*\['encoder'\]\['bias'\]",
    ),
    "nnx_state": (
        lambda: make_functional(NnxMLP())[0](nnx.state(NnxMLP(), nnx.Param), X),
        ValueError,
        r"pass `nnx\.to_pure_dict\(state\)`",
    ),
    "nnx_makes_variables": (
        lambda: make_functional(NnxLazy())[0](*make_functional(NnxLazy())[1:], X),
        ValueError,
        r"A call must keep the variables.*Unknown: .*mean",
    ),
    "linen_sows_into_state": (
        lambda: (lambda row: Case(row).call(*Case(row).arguments()))(
            linen_row(LinenLosses())
        ),
        ValueError,
        r"sow into intermediates only.*Unknown: .*losses",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_call_says_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_new_state_keeps_its_dtypes():
    # flax makes float32 statistics, and of float64 inputs float64 ones
    variables = jax.tree.map(F64, ROWS["linen_batchnorm_dropout"]().variables)
    variables["batch_stats"] = jax.tree.map(jnp.float32, variables["batch_stats"])
    apply_fn, params, state = make_functional(LinenBatchNormDropout(), variables)
    _, new_state = apply_fn(params, state, X, key=jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(new_state)} == {jnp.dtype(jnp.float32)}
