"""Solvers of linear systems given as a function, for implicit differentiation.

A solver is called with `matvec`, a linear function of a pytree, and a right-hand side,
and gives an approximate solution of `matvec(x) = b`. It can be transposed, so the same
object serves forward and reverse mode. The iterative solvers take a
system in half precision in float32; only the products with the matrix are rounded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg, gmres

from jmeta._core import validate
from jmeta._core.tree import cast_like, is_inexact, widest
from jmeta._core.typing import PyTree
from jmeta._core.varying import varying_axes

MatVec = Callable[[PyTree], PyTree]
"""A matrix as a function: `x -> matrix @ x`, linear, for a pytree `x`."""


class Solver(Protocol):
    """What `Implicit` takes as its `solver`: `(matvec, b) -> x`.

    A function or an object of your own serves as well as `CG`, `NormalCG`, `GMRES` and
    `Neumann`. Reverse mode transposes the solver, so it must be linear in `b` and made
    of operations that JAX can transpose, such as `jax.lax.custom_linear_solve`.
    """

    def __call__(self, matvec: MatVec, b: PyTree, /) -> PyTree:
        """Solve `matvec(x) = b`.

        Args:
            matvec: The matrix as a linear function from a tree like `b` to another.
            b: The right-hand side, a pytree of float arrays.

        Returns:
            The solution, a tree like `b` with its shapes and dtypes.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CG:
    """Conjugate gradients: for a symmetric positive definite matrix.

    The Hessian of the inner loss at a minimum is one.

    Args:
        tol: Stop when the residual's norm is below `tol` times the norm of `b`; from 0
            and below 1. Default 1e-10 in float64, 1e-6 in float32, and the rounding
            error in half precision (bfloat16 8e-3, float16 1e-3).
        maxiter: Most iterations, from 1; default ten times the number of unknowns.
        damping: Number from 0 that is added to the diagonal. It makes the solution
            steadier and biased.

    Raises:
        TypeError: A setting of the wrong kind, or `b` is no tree of float arrays.
        ValueError: A setting with which the solution would be 0, or `matvec` does not
            keep the tree, shapes and dtypes of `b`.

    Example:
        >>> import jax.numpy as jnp
        >>> CG()(lambda x: 2.0 * x, jnp.array([2.0, 4.0])).tolist()
        [1.0, 2.0]

    References:
        Hestenes and Stiefel (1952), Methods of conjugate gradients for solving linear
        systems. Rajeswaran et al. (2019), Meta-learning with implicit gradients,
        arXiv:1909.04630, for its use in meta-learning.
    """

    tol: float | None = None
    maxiter: int | None = None
    damping: float = 0.0

    def __post_init__(self):
        _check_settings(self.tol, self.maxiter, self.damping)

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        _check_system(matvec, b)
        options = {"tol": _tol(self.tol, b), "maxiter": self.maxiter}

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            return _widened(cg, matvec, b, options)

        damped = _damped(matvec, self.damping)
        return jax.lax.custom_linear_solve(damped, b, solve, symmetric=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalCG:
    """Conjugate gradients on the normal equations: for any invertible matrix.

    Args:
        tol: Stop when the residual's norm in the normal equations is below `tol` times
            the norm of their right-hand side; from 0 and below 1. The default depends
            on the precision, see `CG`.
        maxiter: Most iterations, from 1; default ten times the number of unknowns.
        damping: Number from 0 that is added to the diagonal of the normal equations'
            matrix.

    Raises:
        TypeError: A setting of the wrong kind, or `b` is no tree of float arrays.
        ValueError: A setting with which the solution would be 0, or `matvec` does not
            keep the tree, shapes and dtypes of `b`.

    Example:
        >>> import jax.numpy as jnp
        >>> rotate = lambda x: jnp.array([[0.0, -1.0], [1.0, 0.0]]) @ x
        >>> NormalCG()(rotate, jnp.array([1.0, 2.0])).tolist()
        [2.0, -1.0]
    """

    tol: float | None = None
    maxiter: int | None = None
    damping: float = 0.0

    def __post_init__(self):
        _check_settings(self.tol, self.maxiter, self.damping)

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        _check_system(matvec, b)
        normal_solver = CG(tol=self.tol, maxiter=self.maxiter, damping=self.damping)

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            transpose = jax.linear_transpose(matvec, b)
            return normal_solver(lambda x: transpose(matvec(x))[0], transpose(b)[0])

        return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GMRES:
    """Generalized minimal residuals: for any invertible matrix, with memory `restart`.

    Args:
        tol: Stop when the residual's norm is below `tol` times the norm of `b`; from 0
            and below 1. The default depends on the precision, see `CG`.
        maxiter: Most restarts, from 1; default ten times the number of unknowns.
        restart: Number of vectors kept between restarts, from 1.
        damping: Number from 0 that is added to the diagonal.

    Raises:
        TypeError: A setting of the wrong kind, or `b` is no tree of float arrays.
        ValueError: A setting with which the solution would be 0; `matvec` does not keep
            the tree, shapes and dtypes of `b`; or a call inside `jax.shard_map` with
            `check_vma=True`, which JAX's own GMRES does not support.

    Example:
        >>> import jax.numpy as jnp
        >>> x = GMRES()(lambda x: 2.0 * x, jnp.array([2.0, 4.0]))
        >>> x.round(4).tolist()
        [1.0, 2.0]

    References:
        Saad and Schultz (1986), GMRES: a generalized minimal residual algorithm.
    """

    tol: float | None = None
    maxiter: int | None = None
    restart: int = 20
    damping: float = 0.0

    def __post_init__(self):
        _check_settings(self.tol, self.maxiter, self.damping)
        validate.count("restart", self.restart, minimum=1)

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        _check_system(matvec, b)
        if axes := varying_axes(b):
            raise ValueError(
                "`GMRES` cannot run inside `jax.shard_map` on values that differ over"
                f" devices; these differ over {sorted(axes)}. Use `NormalCG()`, or call"
                " `jax.shard_map(..., check_vma=False)`."
            )
        options = {"tol": _tol(self.tol, b), "maxiter": self.maxiter}

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            return _widened(gmres, matvec, b, options | {"restart": self.restart})

        damped = _damped(matvec, self.damping)
        return jax.lax.custom_linear_solve(damped, b, solve, transpose_solve=solve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neumann:
    """Truncated Neumann series: cheap, and biased when it has not converged.

        x = scale * sum over k < terms of (1 - scale * matrix)**k b

    Args:
        terms: Number of terms of the series, from 1.
        scale: Number above 0. The series diverges unless it is below 2 over the
            matrix's largest eigenvalue. For an inner loop of gradient descent use the
            learning rate, and 1 with `FixedPoint()`.

    Raises:
        TypeError: A setting of the wrong kind, or `b` is no tree of float arrays.
        ValueError: A setting outside its range, or `matvec` does not keep the tree,
            shapes and dtypes of `b`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Neumann(terms=2, scale=0.5)(lambda x: x, jnp.array(1.0)))
        0.75

    References:
        Lorraine et al. (2020), Optimizing millions of hyperparameters by implicit
        differentiation, arXiv:1911.02590.
    """

    terms: int = 10
    scale: float = 1.0

    def __post_init__(self):
        validate.count("terms", self.terms, minimum=1, use="No term is no solution.")
        validate.number("scale", self.scale, above=0.0, below=float("inf"))

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b` approximately, by the first terms of the series."""
        _check_system(matvec, b)

        def term(carry, _):
            total, power = carry
            total = jax.tree.map(jnp.add, total, power)
            power = jax.tree.map(
                lambda p, ap: p - self.scale * ap, power, matvec(power)
            )
            return (total, power), None

        zeros = jax.tree.map(jnp.zeros_like, b)
        (total, _), _ = jax.lax.scan(term, (zeros, b), length=self.terms)
        return jax.tree.map(lambda x: self.scale * x, total)


def _check_settings(tol: Any, maxiter: Any, damping: Any) -> None:
    """Refuse settings with which a solver would give no solution."""
    if tol is not None:
        validate.number("tol", tol, low=0.0, below=1.0, use=_ZERO)
    if maxiter is not None:
        validate.count("maxiter", maxiter, minimum=1, use=_ZERO)
    validate.number("damping", damping, low=0.0, below=float("inf"))


_ZERO = "Leave it out for the default; a solver that takes no step gives 0."


def _check_system(matvec: Any, b: Any) -> None:
    """Require `b` to be a tree of floats, and `matvec` to map it to a tree like it."""
    validate.strategy("matvec", matvec, "a linear function of a tree like `b`", "x")

    def checked(x):
        out = matvec(x)
        validate.traceable("matvec", out)
        return out

    for leaf in (leaves := jax.tree.leaves(b)):
        is_array = hasattr(leaf, "dtype") or isinstance(leaf, float | complex)
        if not is_array or not is_inexact(leaf):
            raise TypeError(
                f"`b` must be a tree of float arrays; got {validate.kind(leaf)} in it."
            )
    if not leaves:
        raise TypeError(f"`b` must be a tree of float arrays; got {b!r} without any.")
    out, like = jax.eval_shape(checked, b), jax.eval_shape(lambda b: b, b)
    if jax.tree.structure(out) != jax.tree.structure(like) or any(
        (x.shape, x.dtype) != (y.shape, y.dtype)
        for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(like), strict=True)
    ):
        raise ValueError(
            f"`matvec` must keep the tree, shapes and dtypes of `b`; got {out}, for"
            f" {like}."
        )


def _widened(
    solve: Callable[..., tuple[PyTree, Any]], matvec: MatVec, b: PyTree, options: Any
) -> PyTree:
    """Solve in float32 a system that is in half precision.

    LAPACK has no routines for half precision, and its dot products are too rough to
    keep the solvers' directions orthogonal.
    """

    def wide(tree):
        half = lambda x: jnp.finfo(x.dtype).bits < 32
        return jax.tree.map(lambda x: x.astype(jnp.float32) if half(x) else x, tree)

    b = jax.tree.map(jnp.asarray, b)
    x = solve(lambda x: wide(matvec(cast_like(x, b))), wide(b), **options)[0]
    return cast_like(x, b)


def _damped(matvec: MatVec, damping: float) -> MatVec:
    if isinstance(damping, int | float) and not damping:
        return matvec
    return lambda x: jax.tree.map(
        lambda ax, x: ax + jnp.asarray(damping, x.dtype) * x, matvec(x), x
    )


def _tol(tol: float | None, b: PyTree) -> float:
    if tol is not None:
        return tol
    precision = jnp.finfo(widest(*jax.tree.leaves(b)))
    # the residual does not fall below a few rounding errors
    defaults = {64: 1e-10, 32: 1e-6}
    return defaults.get(precision.bits, float(precision.eps))
