"""Write a picture and load it: what flow-data needs its extra `images` for."""

import tempfile
from pathlib import Path

from flow_data import load_image_folder
from PIL import Image

with tempfile.TemporaryDirectory() as place:
    (Path(place) / "cats").mkdir()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(Path(place) / "cats" / "one.png")
    images = load_image_folder(place)
assert images.source.shape == (1, 3, 3, 4)
assert images.source[0, :, 0, 0].tolist() == [1, 2, 3]
