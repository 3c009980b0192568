"""Where a network's modelled cycles go: the simulator inside this process, layer by layer and function by function."""
