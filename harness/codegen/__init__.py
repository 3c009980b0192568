"""The network as a whole in C: which form each layer takes, where activations lie, and the text."""
