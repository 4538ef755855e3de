"""Few-shot tasks that need no download, and tasks from your own data.

Each function returns a sampler: a pure function of a key that makes one `jmeta.Task`.
It can be jitted, mapped and scanned, and runs on the device. `batch` turns it into a
sampler of many tasks.
"""

from jmeta.data._arrays import from_arrays as from_arrays
from jmeta.data._batch import batch as batch
from jmeta.data._glyphs import glyphs as glyphs
from jmeta.data._harmonics import harmonics as harmonics
from jmeta.data._sampling import FewShot as FewShot
from jmeta.data._sinusoid import sinusoid as sinusoid
from jmeta.data.folder import from_folder as from_folder
