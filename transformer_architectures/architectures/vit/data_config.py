"""The `Data:` section of the picture task."""

from typing import Literal

from pydantic import Field, model_validator

from transformer_architectures.architectures.vit.augmentation import AugmentationConfig, ResizeInterpolation
from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.digits import DigitPicturesRecipe


class DigitsConfig(StrictModel):
    """The embedded default: pictures of one to four handwritten digits, part of the training labels left out."""

    train: int = Field(DigitPicturesRecipe.train, ge=1, description="pictures; also of the other parts")
    validation: int = Field(DigitPicturesRecipe.validation, ge=1)
    test: int = Field(DigitPicturesRecipe.test, ge=1)
    size: int = Field(DigitPicturesRecipe.size, ge=32, description="pixels on a side")
    unknown_fraction: float = Field(DigitPicturesRecipe.unknown_fraction, ge=0, lt=1)
    seed: int = Field(DigitPicturesRecipe.seed, ge=0)


class PictureFilesConfig(StrictModel):
    """Where pictures and their labels lie. Exactly one of:

    * ``pictures`` and ``annotations``: the layout of OpenImages. Pictures are found by id in a folder tree, in tars or in a zip;
      annotations are one or more CSV files, and so are ``machine_labels``, used from ``machine_confidence`` on;
    * ``image_folder``: a folder tree or archive where each picture's class is the folder that it lies in;
    * ``digits``: the embedded default.
    """

    pictures: str | None = None
    annotations: str | list[str] | None = None
    machine_labels: str | list[str] | None = None
    machine_confidence: float | None = Field(default=None, ge=0, le=1, description="0.8 unless given")
    image_folder: str | None = None
    digits: DigitsConfig | None = None

    @model_validator(mode="after")
    def is_one_form(self) -> "PictureFilesConfig":
        if (self.pictures is None) != (self.annotations is None):
            raise ValueError("pictures and annotations belong together: give both, or an image_folder")
        if sum(form is not None for form in (self.pictures, self.image_folder, self.digits)) != 1:
            raise ValueError("give exactly one of: pictures and annotations, image_folder, digits")
        if self.annotations is None and self.machine_labels is not None:
            raise ValueError("machine_labels belong to annotations")
        if self.machine_labels is None and self.machine_confidence is not None:
            raise ValueError("machine_confidence does nothing without machine_labels")
        return self


class VitDataConfig(StrictModel):
    """Which pictures and labels are read, what is done to them, and what is kept of the work."""

    train: PictureFilesConfig
    validation: PictureFilesConfig | None = None
    test: PictureFilesConfig | None = None
    class_descriptions: str | None = Field(None, description="CSV: LabelName,DisplayName, with or without this header")
    classes_trainable: str | None = Field(None, description="a LabelName a line; all that occur unless given")
    num_samples: int | None = Field(None, ge=1, description="train on n pictures, chosen by hash; unusable ones count")
    num_workers: int = Field(0, ge=0, description="processes that decode and augment")
    validation_fraction: float = Field(0.02, gt=0, lt=1, description="of the pictures, by id, if no files are given")
    max_rejected_fraction: float = Field(0.02, ge=0, le=1, description="of the pictures of a part, and of its labels")
    hidden_negatives: float = Field(0.0, ge=0, le=1, description="share of the absent training labels made unknown")
    cache_dir: str = "~/.cache/transformer_architectures"
    cache_decoded: bool = Field(False, description="keep decoded pixels on disk: 3 bytes a pixel, for small pictures")

    augmentation: AugmentationConfig = AugmentationConfig()
    resize: Literal["center_crop", "squash"] = Field("center_crop", description="how pictures are scored")
    crop_fraction: float = Field(1.0, ge=0.1, le=1, description="share of each side that the centre crop keeps")
    interpolation: ResizeInterpolation = "bilinear"

    @model_validator(mode="after")
    def parts_fit(self) -> "VitDataConfig":
        others = [part for part in (self.validation, self.test) if part is not None]
        if self.train.digits is not None and others:
            raise ValueError("the digits have their own validation and test pictures: leave those two out")
        if any(part.digits is not None for part in others):
            raise ValueError("digits belong to train: their validation and test pictures come with them")
        listed = any(part.annotations is not None for part in (self.train, *others))
        if not listed and (self.class_descriptions is not None or self.classes_trainable is not None):
            raise ValueError("class_descriptions and classes_trainable belong to annotations")
        if self.resize == "squash" and self.crop_fraction != 1:
            raise ValueError("crop_fraction belongs to resize: center_crop; squash cuts nothing off")
        return self


__all__ = ["DigitsConfig", "PictureFilesConfig", "VitDataConfig"]
