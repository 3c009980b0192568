"""The initial weights of networks with BatchNorm: such that activations keep their size through many layers."""

from __future__ import annotations

from torch import nn


def keep_variance(network: nn.Module) -> None:
    """He initialisation by fan-in (arXiv 1502.01852) for convolutions; small weights and no bias for linear layers.

    Fan-in, because it is right for depthwise convolutions as well: an untrained network of thirty layers then still
    tells its inputs apart, so that what is checked bit for bit on it is not a row of zeros.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
