"""Convolutions as matrix products, for weights that differ from task to task."""

from jmeta.convolution._product import Convolution as Convolution, patches as patches
from jmeta.convolution._rewrite import matmul_convs as matmul_convs
