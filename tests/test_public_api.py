"""The public names are these, and each is documented by an example and annotated."""

import ast
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jmeta

# Adding or removing a name is a change of the interface: it is made here too.
NAMESPACES = {
    "jmeta": """
        Antithetic CG EMA EMAState Fitted FixedPoint ForwardDifference ForwardMode GMRES
        HypergradCheck Implicit Naive Neumann NormalCG PerLeaf PerStep Plan Root Run
        StationaryPoint Task Unroll Validation Verdict adjoint algorithms
        apply_trainable_opt_params check_hypergrad create_diff_optim data diagnose ema
        ema_params es_value_and_grad estimators explain fit from_torch get_diff_optim
        get_trainable_opt_params inner_loop innerloop_ctx make_functional matmul_convs
        models monkeypatch optim plan plot proximal schedules swap_params task_map
        task_value_and_grad unused_parameters
    """,
    "jmeta.adjoint": """
        Adjoint Condition FixedPoint ForwardMode Implicit Loop Outcome Root Solver
        StationaryPoint Unroll proximal
    """,
    "jmeta.algorithms": """
        Adapted MAMLPlusPlusParams MetaSGDParams adapted anil imaml maml
        maml_plus_plus maml_plus_plus_params meta_sgd meta_sgd_params msl_weights
        reptile
    """,
    "jmeta.data": """
        FewShot batch from_arrays from_folder glyphs harmonics sinusoid
    """,
    "jmeta.diagnose": """
        HypergradCheck Plan Verdict check_hypergrad explain plan unused_parameters
    """,
    "jmeta.estimators": "Antithetic ForwardDifference Naive es_value_and_grad",
    "jmeta.from_torch": "optimizer_state parameters state",
    "jmeta.models": """
        EMA EMAState ema ema_params from_torch make_functional swap_params
    """,
    "jmeta.models.from_torch": "optimizer_state parameters state",
    "jmeta.optim": """
        adadelta adafactor adagrad adam adamax adamw asgd finite lbfgs muon nadam
        param_groups radam rmsprop rprop sgd sparse_adam
    """,
    "jmeta.plot": "accuracy adaptation hypergradients history losses",
    "jmeta.schedules": """
        PlateauState ReduceLROnPlateau Schedule constant_lr cosine_annealing_lr
        cosine_annealing_warm_restarts cyclic_lr cyclic_momentum exponential_lr
        lambda_lr linear_lr multi_step_lr one_cycle_lr one_cycle_momentum
        polynomial_lr reduce_lr_on_plateau sequential_lr step_lr warmup_cosine
    """,
}

# Made by the library: the example stands at the function that makes it.
MADE = set(
    """
    Adapted Adjoint Condition EMAState FewShot Fitted HypergradCheck Loop
    MAMLPlusPlusParams MetaSGDParams Outcome Plan PlateauState ReduceLROnPlateau Run
    Solver Verdict
    """.split()
)


def exports(namespace: types.ModuleType) -> dict[str, Any]:
    """What a namespace offers: `from somewhere import name as name`, and functions."""
    tree = ast.parse(Path(str(namespace.__file__)).read_text())
    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]
    names += [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    return {name: getattr(namespace, name) for name in names}


def walk(name: str, namespace: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """Every namespace and everything that it exports, by full name."""
    yield name, namespace
    for child_name, child in exports(namespace).items():
        if isinstance(child, types.ModuleType):
            yield from walk(f"{name}.{child_name}", child)
        else:
            yield f"{name}.{child_name}", child


PUBLIC = dict(walk("jmeta", jmeta))
CALLABLES = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) or inspect.isfunction(value)
}


def test_names():
    namespaces = {
        name: sorted(exports(value))
        for name, value in PUBLIC.items()
        if isinstance(value, types.ModuleType)
    }
    expected = {name: sorted(names.split()) for name, names in NAMESPACES.items()}
    assert namespaces == expected


@pytest.mark.parametrize("name", PUBLIC)
def test_is_documented(name):
    value = PUBLIC[name]
    if name in CALLABLES or isinstance(value, types.ModuleType):
        # a NamedTuple or dataclass without a docstring is given its signature as one
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name.split('.')[-1]}(")


@pytest.mark.parametrize(
    "name", [name for name in CALLABLES if name.rpartition(".")[2] not in MADE]
)
def test_has_an_example(name):
    section = inspect.cleandoc(CALLABLES[name].__doc__ or "").partition("\nExample")[2]
    assert ">>> " in section


@pytest.mark.parametrize("name", CALLABLES)
def test_is_annotated(name):
    for function in public_functions(CALLABLES[name]):
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        missing = [p.name for p in parameters if p.annotation is p.empty]
        assert not missing, function
        assert signature.return_annotation is not signature.empty, function


def public_functions(value: Any) -> list[Any]:
    """A function itself; of a class the constructor and the public methods."""
    if not inspect.isclass(value):
        return [value]
    return [
        method
        for name, method in vars(value).items()
        if inspect.isfunction(method)
        and method.__qualname__ == f"{value.__qualname__}.{name}"
        and (not name.startswith("_") or name in ("__init__", "__call__"))
    ]
