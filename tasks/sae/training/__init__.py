"""The training loop of an SAE, its schedule and its checkpoints."""
