"""Ask the compiler what each way to differentiate costs, before anything runs."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from jmeta._core import validate
from jmeta._jaxpr.notes import notes
from jmeta._jaxpr.operations import count_operations
from jmeta.adjoint import Adjoint, ForwardMode, Unroll
from jmeta.diagnose._meta_loss import NotAScalar, check_make, checked_meta_loss

ADJOINTS: tuple[Adjoint, ...] = (
    Unroll(),
    Unroll(checkpoint="nested"),
    Unroll(mixed=False),
    Unroll(mixed=False, checkpoint="nested"),
    Unroll(mixed=False, checkpoint=None),
    ForwardMode(),
)
"""The exact ways to differentiate any loop, which `plan` compares by default."""

OPERATIONS_PER_BYTE = 50
"""How many operations a machine does while it stores a byte and fetches it again.

About 50 on a CPU core with freshly allocated pages and 25 on a large GPU.
"""


class Candidate(NamedTuple):
    """What one way to differentiate costs; None where that is not known.

    Attributes:
        adjoint: The way to differentiate.
        temp_bytes: Temporary memory of the compiled function in bytes, without its
            arguments and results, as the compiler reports it.
        operations: Arithmetic operations of one call, with every pass of its loops.
        compile_seconds: Time to trace, lower and compile, in seconds.
        run_seconds: Median time of a call in seconds, when measured.
        reason: Why it cannot be used; empty when it can.
        notes: Where a loop departs from its settings, and why.
    """

    adjoint: Any
    temp_bytes: int | None = None
    operations: float | None = None
    compile_seconds: float | None = None
    run_seconds: float | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def work(self) -> float | None:
        """Operations, plus `OPERATIONS_PER_BYTE` for each byte of temporary memory."""
        if self.operations is None or self.temp_bytes is None:
            return None
        return self.operations + OPERATIONS_PER_BYTE * self.temp_bytes


class Plan(NamedTuple):
    """What each candidate costs; printing it gives a table.

    Attributes:
        candidates: A row for each adjoint, in the order given.
        budget_bytes: The temporary memory that is allowed in bytes, None for any.
    """

    candidates: tuple[Candidate, ...]
    budget_bytes: float | None

    def fits(self, candidate: Candidate) -> bool:
        """Whether a candidate compiles and stays within the budget."""
        if candidate.temp_bytes is None:
            return False
        return self.budget_bytes is None or candidate.temp_bytes <= self.budget_bytes

    @property
    def best(self) -> Candidate:
        """The cheapest candidate that fits, by time where measured, else by `work`.

        A loop that stores everything does the fewest operations and yet is seldom the
        fastest, so `work` counts bytes too. It ranks the candidates; to know their
        times, pass `measure=True`.

        Raises:
            ValueError: No candidate fits.
        """
        fitting = [c for c in self.candidates if self.fits(c)]
        if not fitting:
            raise ValueError(
                f"No candidate fits `budget_bytes`={self.budget_bytes}:\n{self}"
            )
        return min(fitting, key=_cost)

    def __str__(self) -> str:
        fitting = any(map(self.fits, self.candidates))
        best = self.best if fitting else None
        header = ["", "adjoint", "memory", "operations", "compile", "run", ""]
        rows = [header]
        for c in self.candidates:
            over = "" if c.reason or self.fits(c) else "over the budget"
            note = "; ".join(filter(None, [c.reason, over, *c.notes]))
            rows.append(
                [
                    "*" if c is best else "",
                    adjoint_name(c.adjoint),
                    _with_prefix(c.temp_bytes, "B"),
                    _with_prefix(c.operations, ""),
                    _with_prefix(c.compile_seconds, "s"),
                    _with_prefix(c.run_seconds, "s"),
                    note,
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in (0, 1, 6) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def plan(
    make: Callable[[Any], Callable[..., jax.Array]],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    budget_bytes: float | None = None,
    adjoints: Sequence[Adjoint] = ADJOINTS,
    measure: bool = False,
) -> Plan:
    """Compare ways to differentiate a meta-loss before running any.

    Compiles the gradient of `make(adjoint)` for each adjoint and asks the compiler what
    it needs. Nothing runs and no array is allocated, so this works for a job that is
    too big for the machine. With `measure=True` the candidates that fit do run, in
    turns, so that a change of the machine's load affects all of them.

    Args:
        make: `adjoint -> meta_loss`, the scalar function itself and not its gradient;
            it hands `adjoint` on to `inner_loop`. `check_hypergrad` takes the same
            function.
        *args: Pytrees of arrays with which the meta-loss is called. Without `measure` a
            `jax.ShapeDtypeStruct` can stand for an array.
        argnums: Place, or places, of the arguments by which the meta-loss is
            differentiated, counted from 0.
        budget_bytes: Largest temporary memory that is allowed, in bytes; None for any.
        adjoints: The candidates. A candidate that raises when it is traced or compiled
            becomes a row with the reason.
        measure: Also run the candidates that fit, so that the best is chosen by time.

    Returns:
        A table; `.best.adjoint` is the one to use in `make`.

    Raises:
        TypeError: An argument of the wrong kind, or `make(adjoint)` is no function.
        ValueError: `measure` without arrays to run on, no adjoint, a budget below 0, or
            a meta-loss that gives no floating-point scalar.

    Example:
        >>> import jax, jmeta
        >>> def make(adjoint):
        ...     def meta_loss(lr):
        ...         tx, square = jmeta.optim.sgd(lr=lr), lambda w: w**2
        ...         return jmeta.inner_loop(square, 1.0, tx, 20, adjoint=adjoint).params
        ...
        ...     return meta_loss
        >>> table = jmeta.plan(make, jax.ShapeDtypeStruct((), "float32"))
        >>> all(candidate.temp_bytes < 10_000 for candidate in table.candidates)
        True

    Note:
        Memory on CPU and on an accelerator differ: plan on the kind of device on which
        the job will run.
    """
    adjoints = _check_arguments(make, args, argnums, budget_bytes, adjoints, measure)
    if measure and any(
        isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(args)
    ):
        raise ValueError(
            "`measure=True` runs the candidates, so it needs arrays; got a"
            " ShapeDtypeStruct. Pass arrays, or leave `measure` out."
        )
    compiled = [_compile(make, adjoint, args, argnums) for adjoint in adjoints]
    table = Plan(tuple(row for row, _ in compiled), budget_bytes)
    if not measure:
        return table
    functions = {i: fun for i, (row, fun) in enumerate(compiled) if table.fits(row)}
    seconds = _median_seconds(functions, args)
    return table._replace(
        candidates=tuple(
            row._replace(run_seconds=seconds.get(i))
            for i, row in enumerate(table.candidates)
        )
    )


def _check_arguments(
    make, args, argnums, budget_bytes, adjoints, measure
) -> tuple[Adjoint, ...]:
    """Refuse arguments that `plan` cannot use; return the adjoints as a tuple."""
    check_make(make)
    validate.traceable("args", args)
    for place in argnums if isinstance(argnums, Sequence) else (argnums,):
        use = f"It is the place of one of the {len(args)} arguments of the meta-loss."
        validate.count("argnums", place, use=use)
        if place >= len(args):
            raise ValueError(f"`argnums` must be below {len(args)}; got {place}. {use}")
    if budget_bytes is not None:
        validate.number("budget_bytes", budget_bytes, low=0.0, use="It is in bytes.")
    validate.flag("measure", measure)
    use = "Put a single one in a list: `[Unroll()]`."
    validate.instance("adjoints", adjoints, Iterable, "a list of adjoints", use=use)
    adjoints = tuple(adjoints)
    for adjoint in adjoints:
        validate.adjoint("adjoints", adjoint)
    if not adjoints:
        raise ValueError("`adjoints` must be one adjoint or more; got none.")
    return adjoints


def adjoint_name(adjoint: Any) -> str:
    """An adjoint as one writes it, without the settings that have their default."""
    if not dataclasses.is_dataclass(adjoint) or isinstance(adjoint, type):
        return str(adjoint)
    settings = [
        f"{field.name}={getattr(adjoint, field.name)!r}"
        for field in dataclasses.fields(adjoint)
        if getattr(adjoint, field.name) != field.default
    ]
    return f"{type(adjoint).__name__}({', '.join(settings)})"


def _compile(make, adjoint, args, argnums):
    """A candidate's row and its compiled gradient, None where it does not compile."""
    start = time.perf_counter()
    try:
        meta_loss = make(adjoint)
    except Exception as error:  # whatever a candidate raises is its reason
        return _failed_candidate(adjoint, error), None
    gradient = jax.jit(jax.grad(checked_meta_loss(meta_loss, *args), argnums))
    try:
        traced = gradient.trace(*args)
        compiled = traced.lower().compile()
    except NotAScalar as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # the reason of a candidate that fails when traced
        return _failed_candidate(adjoint, error), None
    seconds = time.perf_counter() - start
    # JAX gives None where the backend does not report its memory.
    memory = compiled.memory_analysis()
    if memory is None:
        return Candidate(adjoint, reason="the compiler gives no memory"), None
    row = Candidate(
        adjoint,
        temp_bytes=memory.temp_size_in_bytes,
        operations=count_operations(traced.jaxpr),
        compile_seconds=seconds,
        notes=notes(traced.jaxpr.jaxpr),
    )
    return row, compiled


def _failed_candidate(adjoint, error):
    text = str(error).strip().split("\n")[0]
    return Candidate(adjoint, reason=f"{type(error).__name__}: {text}")


def _median_seconds(functions, args, rounds=5):
    """The median time of each function, each called once in every round."""
    times = {i: [] for i in functions}
    for turn in range(rounds + 1):
        for i, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*args))
            if turn:  # The first round is a warm-up.
                times[i].append(time.perf_counter() - start)
    return {i: statistics.median(t) for i, t in times.items()}


def _cost(candidate):
    """Seconds where they were measured, else work; both are to be small."""
    if candidate.run_seconds is not None:
        return candidate.run_seconds
    return candidate.work


def _with_prefix(number, unit):
    """A number with three digits and a prefix, such as `1.25 MB`."""
    if number is None:
        return "-"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}".rstrip()
    if unit == "s" and number:
        return f"{number * 1e3:.3g} ms"
    return f"{number:.3g} {unit}".rstrip()
