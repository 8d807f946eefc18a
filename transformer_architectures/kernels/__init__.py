"""Kernels: each equals a torch function and is faster somewhere. Skip them on a first reading."""
