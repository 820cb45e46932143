"""The Neural Data Transformer, its masks and its checkpoints."""
