"""How a loop is differentiated: what is stored, recomputed and transposed."""

from jmeta.adjoint._base import Adjoint as Adjoint
from jmeta.adjoint.unroll import Unroll as Unroll
