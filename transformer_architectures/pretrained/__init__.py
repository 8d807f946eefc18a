"""Weights that exist: model folders of this library, published checkpoints, and the maps between their names."""
