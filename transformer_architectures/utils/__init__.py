"""What would be the same in a library without transformers: files, processes, memory, console."""
