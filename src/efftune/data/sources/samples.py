"""The built-in sample data set."""

from pathlib import Path

import numpy as np

from efftune.system import files


def digits_folder() -> Path:
    """The UCI digits from scikit-learn as PNG files: 1,797 scans of 8 by 8 pixels."""
    import sklearn
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = files.cache_folder() / "samples" / f"digits-{sklearn.__version__}"
    if not folder.exists():
        digits = load_digits()
        with files.folder_written_whole(folder) as partial:
            for i, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
                (partial / str(label)).mkdir(exist_ok=True)
                pixels = (scan * (255 / 16)).round().astype(np.uint8)
                Image.fromarray(pixels).save(partial / str(label) / f"{i:04}.png")
    return folder
