"""Readers of images and of what is known of their labels; decoding, checks, augmentation."""
