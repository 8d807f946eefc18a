"""Logistic regression on the pixels: what can be said of small images without looking at shapes."""

import numpy as np
import torch
from jaxtyping import Float32
from sklearn.linear_model import LogisticRegression

from transformer_architectures.datasets.images.data_module import ImageDataset
from transformer_architectures.metrics import AnnotatedPairs, best_thresholds, multi_label_scores
from transformer_architectures.training.task import Scores

# On the squared weights of standardised pixels. For the digits' 12,000 images the best on validation of 300, 1,000, 3,000 and 10,000.
PENALTY = 3000.0


def logistic_regression_scores(train: ImageDataset, validation: ImageDataset, test: ImageDataset) -> Scores:
    """Scores on test of one regression for each class, on the grey values of the images whose label is verified.

    Thresholds are the best on validation.
    """
    pixels = _grey(train)
    labels, masks = train.labels.targets_of(range(len(pixels)))
    mean, std = pixels.mean(axis=0), pixels.std(axis=0) + 1e-6
    models = []
    for known, verified in zip(labels.T, masks.T == 1, strict=True):
        is_constant = len(np.unique(known[verified])) < 2
        regression = LogisticRegression(C=1 / PENALTY, max_iter=100)
        models.append(None if is_constant else regression.fit((pixels[verified] - mean) / std, known[verified]))

    def pairs(part: ImageDataset) -> AnnotatedPairs:
        standardised = (_grey(part) - mean) / std
        scores = [np.zeros(len(part)) if model is None else model.predict_proba(standardised)[:, 1] for model in models]
        targets = map(torch.from_numpy, part.labels.targets_of(range(len(part))))
        found = AnnotatedPairs(len(models))
        found.add(torch.from_numpy(np.stack(scores, axis=1)).float(), *targets)
        return found

    return multi_label_scores(pairs(test), best_thresholds(pairs(validation)))


def _grey(dataset: ImageDataset) -> Float32[np.ndarray, "images pixels"]:
    images = map(dataset.image, range(len(dataset)))
    grey = [dataset.preparation(image).float().mean(dim=0).flatten() / 255 for image in images]
    return torch.stack(grey).numpy()
