"""How the images of a published classifier are prepared, as timm and `transformers` say it."""

from typing import Any

from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.pretrained.published_folder import PublishedModel
from transformer_architectures.pretrained.start import published_colors

BICUBIC = 3  # Pillow's number


def published_preparation(model: PublishedModel) -> ImagePreparation:
    """From timm's ``pretrained_cfg`` in ``config.json``, or from the ``preprocessor_config.json`` of `transformers`.

    timm scales an image to cover the input and a margin, and cuts; `transformers` scales height and width on their own unless
    it is to cut.
    """
    height, width = model.config.height_and_width
    found: dict[str, Any] = {"height": height, "width": width}
    if isinstance(timm := model.content.get("pretrained_cfg"), dict):
        found["crop_fraction"] = timm.get("crop_pct", 0.875)
        found["resize"] = "squash" if timm.get("crop_mode") == "squash" else "center_crop"
        found["interpolation"] = "bilinear" if timm.get("interpolation") == "bilinear" else "bicubic"
    else:
        theirs = model.json("preprocessor_config.json")
        found["resize"] = "squash"
        found["interpolation"] = "bicubic" if theirs.get("resample") == BICUBIC else "bilinear"
        if theirs.get("do_center_crop"):
            size = theirs.get("size")
            shortest = size.get("shortest_edge", min(height, width)) if isinstance(size, dict) else size
            found |= {"resize": "center_crop", "crop_fraction": min(1.0, min(height, width) / shortest)}
    if (colors := published_colors(model)) is not None:
        found["mean"], found["std"] = colors
    return ImagePreparation(**found)
