"""Runs from a config to a model folder: run folders, seeds, suites, signals, the training command."""
