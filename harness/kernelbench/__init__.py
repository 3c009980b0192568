"""What each kernel form costs on the layers of published networks, beside CMSIS-NN: `harness bench-kernels`."""
