"""Short names of the types of arrays."""

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float32]
Double = NDArray[np.float64]
Bool = NDArray[np.bool_]
