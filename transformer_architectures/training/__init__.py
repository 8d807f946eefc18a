"""Training. Read `loop`, `step`, `optimization`, `precision`; trust `checkpointing`, `distributed`, `tracking`, `runs`."""
