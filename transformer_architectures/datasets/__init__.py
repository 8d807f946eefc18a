"""Data: loading, lines, rejections, caches and splits; readers of what people have in `text` and `images`."""
