"""Tasks: training one and using what it gives, side by side in one file each."""
