"""Every script in bench/ runs at tiny sizes without torch, and checks its gradients."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"
ROWS = {
    "toy": 3,
    "maml_sinusoid": 2,
    "memory": 5,
    "conv_few_shot": 4,
    "long_unroll": 10,
    "transformer": 5,
    "scaling": 4,
    "plan": 10,
    "higher_port": 1,
    "guard": 4,
}
QUICK = ("toy", "maml_sinusoid")
SCRIPTS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ROWS
]


@pytest.fixture
def script(monkeypatch):
    """Imports a file of bench/, which finds its neighbours as when it is run."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name):
        # under a name of its own: examples/ has a toy.py too
        path = BENCH / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_table_is_complete():
    scripts = {path.stem for path in BENCH.glob("[!_]*.py")}
    assert scripts == ROWS.keys()


@pytest.mark.standard_promotion("scripts are written under JAX's default")
@pytest.mark.parametrize("name", SCRIPTS)
def test_script(script, name, tmp_path):
    # not pinned: that would hold for the tests that follow
    argv = ["--quick", "--no-peers", "--cores", "0", "--out", str(tmp_path)]
    rows = script(name).main(argv)
    assert len(rows) == ROWS[name]
    assert all(row.temp_bytes > 0 for row in rows)
    assert all(row.cpu > 0 for row in rows if row.cpu is not None)
    assert (tmp_path / f"{name}.png").stat().st_size > 0
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [row.name for row in rows]


def test_command_line(tmp_path):
    argv = ["--quick", "--no-peers", "--out", str(tmp_path)]
    command = [sys.executable, str(BENCH / "toy.py"), *argv]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "jmeta, ForwardMode" in done.stdout
    line = json.loads((tmp_path / "toy.jsonl").read_text().splitlines()[0])
    assert line["cores"] == 1
    assert line["versions"]["jax"]


def test_gradients_that_disagree_raise(script):
    harness = script("_harness")
    candidate = lambda value: (
        lambda: harness.Candidate(lambda: None, lambda result: {"lr": np.array(value)})
    )
    makers = {"right": candidate(1.0), "wrong": candidate(1.1)}
    with pytest.raises(AssertionError, match=r"gradients of wrong are off by 0\.1 "):
        harness.measure("", makers, repeats=1, tolerance=1e-2)


def test_gradients_that_are_not_finite_disagree(script):
    harness = script("_harness")
    nan = {"lr": np.array(np.nan)}
    assert harness.disagreement(nan, {"lr": np.array(1.0)}) == np.inf
    with pytest.raises(AssertionError, match="nothing to compare"):
        harness.disagreement({"lr": np.array(1.0)}, {"momentum": np.array(1.0)})


def test_candidate_that_is_not_installed_is_a_row(script):
    harness, report = script("_harness"), script("_report")

    missing = lambda: importlib.import_module("no_such_package")
    rows = harness.measure("", {"peer": missing}, repeats=1, tolerance=0.0)
    assert rows[0].note == "not installed: no_such_package"
    assert "not installed" in report.table(rows)
    assert report.times_faster(rows, "peer", "peer") is None


@pytest.mark.parametrize(
    ("value", "at_most", "met"), [(2, False, True), (2, True, False), (1, True, True)]
)
def test_claim(script, value, at_most, met):
    claim = script("_report").Claim("times", value, 1, at_most)
    assert claim.met == met
    assert str(claim).startswith("met" if met else "MISSED")
