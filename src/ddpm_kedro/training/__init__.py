"""How a model learns: the loop, its state, checkpoints, the log, and the launch of workers."""
