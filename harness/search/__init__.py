"""How the bit widths of a network's tensors are found under limits of flash and RAM; arXiv 2008.05124 and its kin."""
