"""Real handwritten digits that come with scikit-learn: no download, no files."""

import numpy as np
import torch

from flow_data.images.imageset import ImageSet


def load_digits() -> ImageSet:
    """The 1797 handwritten digits of scikit-learn, 1x8x8, with 17 levels.

    Each value counts the dark pixels of a 4x4 cell of a 32x32 scan, so it lies in 0..16. Source:
    test part of "Optical recognition of handwritten digits" (Alpaydin and Kaynak, UCI repository).
    """
    # Imported here because it takes about as long as importing torch, and only digits need it.
    from sklearn.datasets import load_digits as load_bundled_digits  # noqa: PLC0415

    values, labels = load_bundled_digits(return_X_y=True)
    images = np.asarray(values).reshape(-1, 1, 8, 8).astype(np.uint8)
    return ImageSet(
        source=torch.from_numpy(images),
        labels=torch.from_numpy(np.asarray(labels).astype(np.int64)),
        levels=17,
        name="digits",
    )
