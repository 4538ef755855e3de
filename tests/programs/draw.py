"""What a seed stands for: the choices that make a program, free of contradictions."""

import dataclasses
import random
from collections.abc import Sequence
from typing import TypeVar

from tests.programs import blocks
from tests.programs.optimizers import OPTIMIZERS

T = TypeVar("T")

LOSSES = ("square", "cosh", "labels", "weighted")
DATA = ("batch", "batches", "captured")
QUANTITIES = ("weights", "lr", "second", "data", "captured", "perturbations")
RATES = ("number", "per_step", "per_leaf", "callable", "constructor")
ADJOINTS = (
    *("mixed", "plain", "nested", "last", "order1"),
    *("forward", "stationary_point", "fixed_point"),
)
COSTLY = ("nested", "stationary_point", "fixed_point")
COMPOSITIONS = (
    *("grad", "vmap_of_grad", "grad_of_vmap", "grad_of_grad", "map", "shard_map"),
)
EXTRAS = (
    *("state", "aux", "key", "trainable", "history", "active", "callback"),
    *("traced_active", "losses", "none"),
)
CALLBACKS = (
    "lambda grads: jax.tree.map(lambda g: g / (1 + jnp.abs(g)), grads)",
    "lambda grads: jax.tree.map(lambda g: jnp.clip(g, -0.5, 0.5), grads)",
)


@dataclasses.dataclass
class Choices:
    """A program in words; see `tests.programs.write` for what they mean."""

    seed: int
    blocks: list[str]
    loss: str
    data: str
    pair: bool
    optimizer: str
    quantities: set[str]
    rate: str
    adjoint: str
    composition: str
    extras: set[str]
    callback: str
    steps: int
    active: tuple[int, int]
    unroll: int
    last: int
    checkpoint: str
    mixed: bool

    def features(self) -> set[str]:
        """Names of all that the program has, for a count over the seeds."""
        named = {
            *(f"block {kind}" for kind in self.blocks),
            f"loss {self.loss}",
            f"data {self.data}",
            f"optimizer {self.optimizer}",
            f"adjoint {self.adjoint}",
            f"composition {self.composition}",
            *(f"quantity {name}" for name in self.quantities),
            *(f"extra {name}" for name in self.extras),
            "apply_fn with loss_fn" if self.pair else "one objective",
        }
        if "lr" in self.quantities:
            named.add(f"rate {self.rate}")
        if self.traced and 0 in self.active:
            named.add("no active step")
        return named

    def quantity(self, name: str, constant: str) -> str:
        """Source of a value that is a constant unless it is differentiated."""
        return f'theta["{name}"]' if name in self.quantities else constant

    @property
    def implicit(self) -> bool:
        """Whether the solution, and not the way to it, is differentiated."""
        return self.adjoint in ("stationary_point", "fixed_point")

    @property
    def traced(self) -> bool:
        """Whether a number of active steps is given."""
        return bool(self.extras & {"active", "traced_active"})


def draw(seed: int) -> Choices:
    """Draw the choices of a seed and settle those that exclude one another.

    Every kind comes up equally often: the options of each choice are dealt like cards,
    shuffled anew when all are out.
    """
    rng = random.Random(seed)

    def deal(name: str, options: Sequence[T]) -> T:
        turn, place = divmod(seed, len(options))
        shuffled = random.Random(f"{name} {turn}").sample(options, len(options))
        return shuffled[place]

    composition, adjoint = deal("composition", COMPOSITIONS), deal("adjoint", ADJOINTS)
    extras = {deal("extra", EXTRAS)} | {e for e in EXTRAS if rng.random() < 0.12}
    kinds = [deal("block", blocks.NAMES)]
    # these take long to compile as it is
    alone = composition == "grad_of_grad" or adjoint in COSTLY
    # of two blocks one can be frozen
    if "trainable" in extras or (rng.random() < 0.5 and not alone):
        kinds.insert(rng.randrange(2), rng.choice(blocks.NAMES))
    quantities = {deal("quantity", QUANTITIES)}
    quantities |= {name for name in QUANTITIES if rng.random() < 0.2}
    choices = Choices(
        seed=seed,
        blocks=kinds,
        loss=deal("loss", LOSSES),
        data=deal("data", DATA),
        pair=rng.random() < 0.5,
        optimizer=deal("optimizer", list(OPTIMIZERS)),
        quantities=quantities,
        rate=deal("rate", RATES),
        adjoint=adjoint,
        composition=composition,
        extras=extras - {"none"},
        callback=rng.choice(CALLBACKS),
        steps=rng.choice((2, 2, 2, 3)),
        active=rng.choice(((2, 1), (0, 2), (1, 1), (2, 0))),
        unroll=rng.choice((1, 1, 2)),
        last=rng.choice((0, 1, 1, 2)),
        checkpoint=rng.choice(("None", "'step'", "'nested'")),
        mixed=rng.random() < 0.8,
    )
    _settle(choices, rng)
    return choices


def _settle(c: Choices, rng: random.Random) -> None:
    """Take back what has no meaning, or no derivative, beside the rest."""
    optimizer = OPTIMIZERS[c.optimizer]
    if optimizer.second is None:
        c.quantities.discard("second")
    if optimizer.lr_name != "lr" and c.rate == "per_leaf":
        c.rate = "number"
    if optimizer.lr_name is None and c.rate == "number":
        c.rate = "constructor"
    if c.adjoint == "nested":  # below four steps nothing is nested, and five are odd
        c.steps = rng.choice((4, 5))
    if c.adjoint == "order1":
        c.quantities -= {"data", "captured", "perturbations"}
    if c.implicit:
        c.data = "batch" if c.data == "batches" else c.data
        c.extras -= {"history", "active", "traced_active", "aux", "losses"}
        c.quantities -= {"weights", "perturbations"}
        if c.composition == "grad_of_grad":
            c.composition = "grad"
        if c.adjoint == "stationary_point":
            c.quantities -= {"lr", "second"}
        elif optimizer.lr_name != "lr":
            c.optimizer = rng.choice(("sgd", "adam", "adamw", "nesterov"))
        if c.adjoint == "fixed_point":  # a clipped step moves by a constant
            c.callback = CALLBACKS[0]
            c.optimizer = "nesterov" if c.optimizer == "chain" else c.optimizer
        if c.adjoint == "fixed_point" and c.rate in ("per_step", "constructor"):
            c.rate = rng.choice(("number", "per_leaf", "callable"))
    if c.adjoint == "forward" and c.optimizer == "multi_steps":
        c.optimizer = "optax_sgd"  # the other accumulates in float32, in either mode
    if c.traced:
        c.quantities.discard("perturbations")
        c.extras -= {"history", "aux", "losses"}
    if "history" not in c.extras and "perturbations" in c.quantities:
        c.extras.add("history")
    if c.data == "captured":
        c.pair = False
    if c.composition == "grad_of_grad":
        c.steps = min(c.steps, 4 if c.adjoint == "nested" else 2)
    if not c.quantities:
        c.quantities.add("captured" if c.implicit else "weights")
