"""Training and compression: float training, quantisation, pruning."""
