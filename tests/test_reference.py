"""The recorded numbers are all there, and consistent with each other."""

import re

import numpy as np
import pytest

from tests.reference import read

README = (read.FOLDER / "README.md").read_text()
LISTED = {
    name: int(count)
    for name, count in re.findall(r"^\| `(\w+)` \| (\d+)", README, re.M)
}
KEYS = {
    "problems": "doc params",
    "trajectories": "optimizer problem steps params losses outer state",
    "hypergradients": "optimizer settings outer final d_settings d_params higher",
    "corner_cases": "kind optimizer settings outer final d_settings d_params",
    "lbfgs": "kwargs params losses step_lengths func_evals one_call hypergradients",
    "sparse_adam": "settings indices targets params state d_settings d_params",
    "by_shape": "optimizer kwargs params losses outer state hypergradients",
    "toy": "weights meta_loss d_settings d_weight x y",
    "maml": "params query_losses meta_grad meta_grad_first_order d_lr x_support",
    "schedules": "scheduler kwargs base_lrs lrs",
    "schedule_hypergradients": "scheduler scheduler_kwargs values lrs d_values",
    "plateau": "kwargs metrics lrs num_bad_epochs cooldown_counter best",
    "averages": "kind decay params shadow average outer d_decay d_lr d_params",
    "modules": "state_dict outputs outputs_eval middle next",
    "models": "params x y outputs outer final d_settings d_params",
    "layers": "doc inputs state_dict outputs",
    "autograd": "doc",
}


def leaves(node):
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, list | tuple):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


def test_the_readme_lists_every_section():
    assert set(LISTED) == set(KEYS) == set(read.sections())


@pytest.mark.parametrize("section", KEYS)
def test_a_section_holds_what_the_readme_lists(section):
    rows = read.cases(section)
    assert len(rows) == LISTED[section]
    for row in rows:
        missing = set(KEYS[section].split()) - set(row)
        assert not missing, f"{section}/{row['name']} lacks {missing}"
        assert read.case(section, row["name"]) is row
        for leaf in leaves(row):
            if isinstance(leaf, np.ndarray):
                assert leaf.dtype in (np.float64, np.int64)
                assert not leaf.flags.writeable
    assert any(isinstance(leaf, np.ndarray) for leaf in leaves(rows))


@pytest.mark.parametrize("section", [name for name in KEYS if name != "plateau"])
def test_numbers_are_finite(section):
    # `higher` beside ours may give anything; `plateau` is fed NaN on purpose
    for row in read.cases(section):
        ours = {key: value for key, value in row.items() if key != "higher"}
        for leaf in leaves(ours):
            if isinstance(leaf, float | np.ndarray):
                assert np.isfinite(leaf).all(), f"{section}/{row['name']}"


def test_trajectories_move_and_start_at_the_problem():
    for row in read.cases("trajectories"):
        initial = read.case("problems", row["problem"])["params"]
        assert len(row["losses"]) == row["steps"] + 1
        for name, path in row["params"].items():
            np.testing.assert_array_equal(path[0], initial[name])
            assert (np.abs(np.diff(path, axis=0)).max(axis=0) > 0).all(), row["name"]


def test_hypergradients_end_where_trajectories_pass():
    ends = 0
    for row in read.cases("hypergradients"):
        name, problem, steps = row["name"].split("/")
        path = read.case("trajectories", f"{name}/{problem}")["params"]
        for leaf, value in row["final"].items():
            at = path[leaf][int(steps[1:])]
            np.testing.assert_allclose(value, at, rtol=1e-11, atol=1e-12)
            ends += 1
        assert set(row["d_settings"]) == set(row["settings"])
        assert {k: v.shape for k, v in row["d_params"].items()} == {
            k: v.shape for k, v in row["final"].items()
        }
    assert ends > 0


def test_the_toy_has_the_published_digits():
    row = read.case("toy", "copy_false")
    published = [-0.9915, -0.1217, 1.0145, 2.0640, 2.8668, 3.3908]
    np.testing.assert_allclose(row["weights"], published, atol=5e-5)
    assert abs(row["meta_loss"] - 0.011927987982895929) < 1e-12
    assert abs(row["d_weight"] - -0.005311) < 1e-6
    assert read.case("toy", "copy_true")["d_weight"] is None
    assert abs(read.case("toy", "third_run")["meta_loss"] - 0.01192798770078706) < 1e-12


def test_maml_means_its_tasks():
    for row in read.cases("maml"):
        assert row["meta_loss"] == pytest.approx(row["query_losses"].mean(), rel=1e-12)


def test_pairs_are_tuples_and_a_wrong_name_is_told():
    row = read.case("hypergradients", "adam_betas/mlp/T5")
    assert row["kwargs"]["betas"] == (0.7, 0.9)
    assert len(row["d_settings"]["betas"]) == 2
    with pytest.raises(KeyError, match="no case 'adam'"):
        read.case("toy", "adam")
