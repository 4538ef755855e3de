"""How a loop is differentiated: what is stored, recomputed and transposed."""

from jmeta.adjoint._base import Adjoint as Adjoint
from jmeta.adjoint._proximal import proximal as proximal
from jmeta.adjoint.forward import ForwardMode as ForwardMode
from jmeta.adjoint.implicit import (
    FixedPoint as FixedPoint,
    Implicit as Implicit,
    Root as Root,
    StationaryPoint as StationaryPoint,
)
from jmeta.adjoint.unroll import Unroll as Unroll
