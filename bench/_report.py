"""Tables, claims and pictures of what was measured."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from _harness import Row, machine, record


class Claim(NamedTuple):
    """A number that this script is there to show.

    Attributes:
        text: What it is.
        value: What was measured.
        bound: What it should be.
        at_most: Whether `bound` is the most; else it is the least.
    """

    text: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self):
        limit = "at most" if self.at_most else "at least"
        verdict = "met   " if self.met else "MISSED"
        return f"{verdict} {self.value:8.3g}  {limit} {self.bound:g}: {self.text}"


def by_name(rows: list[Row]) -> dict[str, Row]:
    """The rows that have numbers, by candidate."""
    return {row.name: row for row in rows if not row.note}


def times_faster(rows: list[Row], fast: str, slow: str) -> float | None:
    """How many times the time of `fast` is in that of `slow`; None without either."""
    found = by_name(rows)
    if fast not in found or slow not in found:
        return None
    return found[slow].seconds() / found[fast].seconds()


def report(
    script: str, args: argparse.Namespace, rows: list[Row], claims: list[Claim]
) -> None:
    """Print the table and the claims, and append both to the results."""
    where = machine(args.cores)
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    print(f"{where['device']}, cores: {where['cores']}, load: {where['load']}")
    print(versions)
    print(table(rows))
    for claim in claims:
        print(claim)
    lines: list[dict[str, Any]] = [row._asdict() for row in rows]
    lines += [{**claim._asdict(), "met": claim.met} for claim in claims]
    record(script, args.out, where, lines)


def table(rows: list[Row]) -> str:
    """A line for each row; `ratio` is to the first of the same case."""
    head = ("case", "candidate", "CPU ms", "wall ms", "ratio", "first s")
    lines = [(*head, "temp MB", "peak MB", "error")]
    firsts: dict[str, Row] = {}
    for row in rows:
        if row.note:
            lines.append((row.case, row.name, row.note, *[""] * 6))
            continue
        first = firsts.setdefault(row.case, row)
        ratio = row.seconds() / first.seconds() if row.cpu and first.cpu else None
        lines.append(
            (
                row.case,
                row.name,
                _text(row.cpu, 1e3),
                _text(row.wall, 1e3),
                _text(ratio),
                _text(row.first),
                _text(row.temp_bytes, 1e-6),
                _text(row.peak_bytes, 1e-6),
                "" if row.error is None else f"{row.error:.0e}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    return "\n".join(
        f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}"
        + "".join(f"{cell:>10}" for cell in line[2:]).rstrip()
        for line in lines
    )


def _text(value, unit=1.0):
    if value is None:
        return "-"
    value *= unit
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bars(path: Path, title: str, rows: list[Row]) -> None:
    """Time and memory of each candidate, as two bar charts."""
    figure = _figure(9, 0.9 + 0.3 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    shown = [row for row in rows if not row.note][::-1]
    names = [f"{row.case} {row.name}".strip() for row in shown]
    if any(row.cpu for row in shown):
        left.barh(names, [row.seconds() or 0 for row in shown], color="C0")
        left.set(xscale="log", xlabel="seconds")
    peaks = [row.temp_bytes or row.peak_bytes or 0 for row in shown]
    right.barh(names, [1e-6 * peak for peak in peaks], color="C1")
    right.set(xscale="log", xlabel="MB: temporary, torch: peak growth")
    figure.suptitle(title)
    _save(figure, path)


def lines(
    path: Path, title: str, xlabel: str, panels: dict[str, dict[str, list]]
) -> None:
    """One panel for each quantity, one line of `(x, y)` points for each candidate."""
    figure = _figure(4.5 * len(panels), 3.6)
    for axes, (ylabel, series) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, points in series.items():
            if points:
                axes.plot(*zip(*points, strict=True), ".-", label=name)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title)
    _save(figure, path)


def _figure(width, height):
    from matplotlib.figure import Figure

    # without pyplot a figure is drawn by Agg, with or without a screen
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    print(f"wrote {path}")
