"""The built-in sample."""

from pathlib import Path

import numpy as np

from efftune.system import files


def digits_folder() -> Path:
    """The UCI digits that scikit-learn carries: 1,797 real scans of 8 by 8 pixels, as PNG files."""
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
