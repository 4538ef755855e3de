"""The README's table of optimizers and what is tested of each.

    python -m tests.optimizer_table            # print it
    python -m tests.optimizer_table --write    # put it into README.md

Every cell is read off the parameters that the tests run over.
"""

import argparse
import collections
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests import (
    test_optim_by_shape as by_shape,
    test_optim_hypergradients as hypergradients,
    test_optim_lbfgs as lbfgs,
    test_optim_promises as promises,
    test_optim_trajectories as trajectories,
    test_optim_zero_gradients as zero_gradients,
)

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- optimizers:begin -->", "<!-- optimizers:end -->"


def values(test: Callable[..., Any]) -> list[Any]:
    """The names that a parametrized test runs over."""
    marks = test.pytestmark  # type: ignore[attr-defined] # set by pytest
    for mark in marks:
        if mark.name != "parametrize":
            continue
        names, cases = mark.args[:2]
        if names == "name":
            return [getattr(case, "values", (case,))[0] for case in cases]
        if names[0] == "name":
            return [getattr(case, "values", case)[0] for case in cases]
    raise ValueError(f"{test} is not parametrized by `name`.")


def counts() -> dict[str, collections.Counter[str]]:
    """How many cases of each kind there are for each optimizer, by our names."""
    recorded = lambda names, rows: [rows[n]["optimizer"].lower() for n in names]
    runs = values(trajectories.test_parameters_losses_and_state_equal_torch)
    sparse = ["sparse_adam"] * len(values(trajectories.test_sparse_adam_equals_torch))
    derived = [
        f"{name}/T{steps}"
        for name in values(hypergradients.test_every_setting_and_initial_parameter)
        for steps in hypergradients.TIMES
    ]
    shaped = recorded(
        values(by_shape.test_parameters_state_and_hypergradients_equal_torch),
        by_shape.ROWS,
    )
    of_lbfgs = [
        "lbfgs"
        for name in values(lbfgs.test_hypergradients_equal_recorded_ones)
        for _ in lbfgs.CASES[name]["hypergradients"]
    ]
    at_zero = set(values(zero_gradients.test_derivatives_equal_recorded_ones))
    columns: dict[str, Iterable[str]] = {
        "torch numbers": [
            *recorded(runs, trajectories.TRAJECTORIES),
            *sparse,
            *shaped,
            *["lbfgs"] * len(values(lbfgs.test_calls_equal_torch)),
        ],
        "jit": values(promises.test_jit_is_eager),
        "vmap": values(promises.test_vmap_is_a_loop),
        "hypergradients": [
            *recorded(derived, hypergradients.RECORDED),
            *sparse,
            *[name for name in shaped for _ in by_shape.TIMES],
            *of_lbfgs,
        ],
        "zero-safe": [
            *recorded(sorted(at_zero), zero_gradients.ROWS),
            *values(zero_gradients.test_no_gradient_no_motion),
            *values(by_shape.test_second_derivatives_at_zero),
        ],
        "groups": values(promises.test_in_groups),
    }
    return {name: collections.Counter(found) for name, found in columns.items()}


UNITS = {"torch numbers": "runs", "hypergradients": "runs"}


def table() -> str:
    """The table as markdown, markers not included."""
    found = counts()
    rows = [["optimizer", *found], ["---"] * (1 + len(found))]
    for name in promises.ROWS:
        cells = [f"`{name}`"]
        for column, counter in found.items():
            unit = UNITS.get(column)
            yes = f"{counter[name]} {unit}" if unit else "yes"
            cells.append(yes if counter[name] else "no")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def split(text: str, begin: str = BEGIN, end: str = END) -> tuple[str, str, str]:
    """What stands before, between and after the markers of a text."""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"The text must have `{begin}` and `{end}` once each.")
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before, inside.strip(), after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if not parser.parse_args().write:
        print(table())
        return
    before, _, after = split(README.read_text())
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
