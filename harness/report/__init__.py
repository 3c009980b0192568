"""How results are shown to people. Computes no figure of its own."""
