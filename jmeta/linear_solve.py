"""Solvers of linear systems given as a function, for implicit differentiation.

A solver is called with `matvec`, a linear function of a pytree, and a right-hand side,
and gives an approximate solution of `matvec(x) = b`. It can be transposed, so the same
object serves forward and reverse mode.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg, gmres

from jmeta._typing import PyTree
from jmeta._varying import varying_axes

MatVec = Callable[[PyTree], PyTree]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CG:
    """Conjugate gradients: for a symmetric positive definite matrix.

    The Hessian of the inner loss at a minimum is one.

    Args:
        tol: Stop when the residual's norm is below `tol` times that of `b`; default
            1e-10 in float64, 1e-6 otherwise.
        maxiter: Most iterations; default ten times the number of unknowns.
        damping: Added to the diagonal: steadier and biased.

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

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        options = {"tol": _tol(self.tol, b), "maxiter": self.maxiter}

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            return cg(matvec, b, **options)[0]

        damped = _damped(matvec, self.damping)
        return jax.lax.custom_linear_solve(damped, b, solve, symmetric=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalCG:
    """Conjugate gradients on the normal equations: for any invertible matrix.

    Args:
        tol: As in `CG`, for the normal equations.
        maxiter: Most iterations; default ten times the number of unknowns.
        damping: Added to the diagonal of the normal equations' matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> rotate = lambda x: jnp.array([[0.0, -1.0], [1.0, 0.0]]) @ x
        >>> NormalCG()(rotate, jnp.array([1.0, 2.0])).tolist()
        [2.0, -1.0]
    """

    tol: float | None = None
    maxiter: int | None = None
    damping: float = 0.0

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        normal_solver = CG(tol=self.tol, maxiter=self.maxiter, damping=self.damping)

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            transpose = jax.linear_transpose(matvec, b)
            return normal_solver(lambda x: transpose(matvec(x))[0], transpose(b)[0])

        return jax.lax.custom_linear_solve(matvec, b, solve, transpose_solve=solve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GMRES:
    """Generalized minimal residuals: for any invertible matrix, with memory `restart`.

    Args:
        tol: Stop when the residual's norm is below `tol` times that of `b`; default
            1e-10 in float64, 1e-6 otherwise.
        maxiter: Most restarts; default ten times the number of unknowns.
        restart: Vectors kept between restarts.
        damping: Added to the diagonal.

    Raises:
        ValueError: It is called inside `jax.shard_map` with `check_vma=True`, which
            JAX's own GMRES does not support.

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

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`."""
        if axes := varying_axes(b):
            raise ValueError(
                "`GMRES` cannot run inside `jax.shard_map` on values that differ over"
                f" devices; these differ over {sorted(axes)}. Use `NormalCG()`, or call"
                " `jax.shard_map(..., check_vma=False)`."
            )
        options = {"tol": _tol(self.tol, b), "maxiter": self.maxiter}

        def solve(matvec: MatVec, b: PyTree) -> PyTree:
            return gmres(matvec, b, restart=self.restart, **options)[0]

        damped = _damped(matvec, self.damping)
        return jax.lax.custom_linear_solve(damped, b, solve, transpose_solve=solve)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neumann:
    """Truncated Neumann series: cheap, and biased when it has not converged.

        x = scale * sum over k < terms of (1 - scale * matrix)**k b

    Args:
        terms: How many.
        scale: Below 2 over the matrix's largest eigenvalue, or the series diverges;
            for an inner loop of gradient descent its learning rate, and 1 with
            `FixedPoint()`.

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

    def __call__(self, matvec: MatVec, b: PyTree) -> PyTree:
        """Solve `matvec(x) = b`, roughly."""

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


def _damped(matvec: MatVec, damping: float) -> MatVec:
    if not damping:
        return matvec
    return lambda x: jax.tree.map(lambda ax, x: ax + damping * x, matvec(x), x)


def _tol(tol: float | None, b: PyTree) -> float:
    if tol is not None:
        return tol
    return 1e-10 if jnp.result_type(*jax.tree.leaves(b)) == jnp.float64 else 1e-6
