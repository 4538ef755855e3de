"""Convolutions as matrix products, for weights that differ from task to task."""

from jmeta.convolution._choice import by_shape as by_shape
from jmeta.convolution._product import Convolution as Convolution, patches as patches
from jmeta.convolution._rewrite import matmul_convs as matmul_convs
from jmeta.convolution._winograd import winograd as winograd
