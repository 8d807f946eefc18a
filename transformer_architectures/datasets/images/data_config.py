"""The `Data:` section of image tasks."""

from typing import Literal

from pydantic import Field, model_validator

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.data_module import DataConfig
from transformer_architectures.datasets.images.augmentation import AugmentationConfig, ResizeInterpolation
from transformer_architectures.datasets.images.digits import DigitImagesRecipe
from transformer_architectures.utils.moved import renamed


class DigitsConfig(StrictModel):
    """The embedded default: images of one to four handwritten digits; a fraction of the training labels is left out."""

    train: int = Field(DigitImagesRecipe.train, ge=1, description="number of images; also of the other splits")
    validation: int = Field(DigitImagesRecipe.validation, ge=1)
    test: int = Field(DigitImagesRecipe.test, ge=1)
    size: int = Field(DigitImagesRecipe.size, ge=32, description="pixels on a side")
    unknown_fraction: float = Field(DigitImagesRecipe.unknown_fraction, ge=0, lt=1)
    seed: int = Field(DigitImagesRecipe.seed, ge=0)


class ImageFilesConfig(StrictModel):
    """The images of one split and their labels. Exactly one of:

    * ``images`` and ``annotations``: the layout of OpenImages. Images are found by id in a folder tree, in tars or in a zip;
      annotations are one or more CSV files, and so are ``machine_labels``, used from ``machine_confidence`` on;
    * ``image_folder``: a folder tree or archive in which each image's class is its folder;
    * ``digits``: the embedded default.
    """

    pictures: str | None = None
    annotations: str | list[str] | None = None
    machine_labels: str | list[str] | None = None
    machine_confidence: float | None = Field(default=None, ge=0, le=1, description="0.8 unless given")
    image_folder: str | None = None
    digits: DigitsConfig | None = None

    @model_validator(mode="after")
    def is_one_form(self) -> "ImageFilesConfig":
        if (self.pictures is None) != (self.annotations is None):
            raise ValueError("images and annotations belong together: give both, or an image_folder")
        if sum(form is not None for form in (self.pictures, self.image_folder, self.digits)) != 1:
            raise ValueError("give exactly one of: images and annotations, image_folder, digits")
        if self.annotations is None and self.machine_labels is not None:
            raise ValueError("machine_labels belong to annotations")
        if self.machine_labels is None and self.machine_confidence is not None:
            raise ValueError("machine_confidence does nothing without machine_labels")
        return self

    @property
    def has_own_splits(self) -> bool:
        """Whether validation and test images come with the training source."""
        return self.digits is not None


class ImageDataConfig(DataConfig):
    """Which images and labels are read, how they are prepared, and what is kept of the work."""

    train: ImageFilesConfig
    validation: ImageFilesConfig | None = None
    test: ImageFilesConfig | None = None
    class_descriptions: str | None = Field(None, description="CSV: LabelName,DisplayName, with or without this header")
    classes_trainable: str | None = Field(None, description="a LabelName a line; all that occur unless given")
    num_samples: int | None = Field(None, ge=1, description="train on n images, chosen by hash; unusable ones count")
    hidden_negatives: float = Field(0.0, ge=0, le=1, description="fraction of the absent training labels made unknown")
    cache_decoded: bool = Field(False, description="keep decoded pixels on disk: 3 bytes a pixel, for small images")

    augmentation: AugmentationConfig = AugmentationConfig()
    resize: Literal["center_crop", "squash"] = Field("center_crop", description="how images are scored")
    crop_fraction: float = Field(1.0, ge=0.1, le=1, description="fraction of each side that the centre crop keeps")
    interpolation: ResizeInterpolation = "bilinear"

    @model_validator(mode="after")
    def splits_fit(self) -> "ImageDataConfig":
        others = [source for source in (self.validation, self.test) if source is not None]
        if self.train.has_own_splits and others:
            raise ValueError("the digits have their own validation and test images: leave those two out")
        if any(source.has_own_splits for source in others):
            raise ValueError("digits belong to train: their validation and test images come with them")
        listed = any(source.annotations is not None for source in (self.train, *others))
        if not listed and (self.class_descriptions is not None or self.classes_trainable is not None):
            raise ValueError("class_descriptions and classes_trainable belong to annotations")
        if self.resize == "squash" and self.crop_fraction != 1:
            raise ValueError("crop_fraction belongs to resize: center_crop; squash cuts nothing off")
        return self


__getattr__ = renamed(__name__, {"VitDataConfig": "ImageDataConfig"})
