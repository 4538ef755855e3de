"""Ways to differentiate a loop, and the interfaces to write your own."""

from jmeta.adjoint._base import (
    Adjoint as Adjoint,
    Condition as Condition,
    Loop as Loop,
    Outcome as Outcome,
)
from jmeta.adjoint._proximal import proximal as proximal
from jmeta.adjoint.forward import ForwardMode as ForwardMode
from jmeta.adjoint.implicit import (
    FixedPoint as FixedPoint,
    Implicit as Implicit,
    Root as Root,
    StationaryPoint as StationaryPoint,
)
from jmeta.adjoint.solvers import Solver as Solver
from jmeta.adjoint.unroll import Unroll as Unroll
