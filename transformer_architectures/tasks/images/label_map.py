"""What the outputs of an image classifier mean."""

from typing import Literal

from pydantic import Field, model_validator

from transformer_architectures.config import StrictModel


class LabelMap(StrictModel):
    """What the outputs of a model mean. Part of the model folder.

    Attributes:
        classes: names for the machine, in the order of the outputs; names: what to show, each once.
        thresholds: from which probability on a class is predicted, chosen on validation images.
        is_single_label: an image shows exactly one class: the most probable one is predicted, whatever the thresholds.
        probabilities: ``sigmoid``, each class for itself, or ``softmax``, adding up to 1.
    """

    classes: tuple[str, ...] = Field(min_length=1)
    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    is_single_label: bool = False
    probabilities: Literal["sigmoid", "softmax"] = "sigmoid"

    @model_validator(mode="after")
    def is_one_row_per_class(self) -> "LabelMap":
        if not len(self.classes) == len(self.names) == len(self.thresholds):
            raise ValueError("classes, names and thresholds must be equally many")
        if len(set(self.names)) < len(self.names):
            raise ValueError("names must differ: predictions are told by them")
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError("classes must be sorted, each once: readers of labels number them so")
        return self
