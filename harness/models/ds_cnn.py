"""DS-CNN: the keyword spotting network of MLPerf Tiny (Zhang et al. 2017, arXiv 1711.07128; Banbury et al. 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.initial import keep_variance

_CHANNELS = 64


class DsCnn(nn.Module):
    """One 10x4 convolution and four separable ones of 64 filters. Input (N, 1, 49, 10): 49 frames of 10 MFCCs.

    Returns logits (N, 12). Padding is Keras's "same": 4 rows above, 5 below, one column on either side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, _CHANNELS, (10, 4), 2)
        self.bn = nn.BatchNorm2d(_CHANNELS)
        self.blocks = nn.Sequential(*(_separable() for _ in range(4)))
        self.pool = nn.AvgPool2d((25, 5))
        self.fc = nn.Linear(_CHANNELS, 12)
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(F.pad(x, (1, 1, 4, 5)))))
        logits: Tensor = self.fc(self.pool(self.blocks(x)).flatten(1))
        return logits


def _separable() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, groups=_CHANNELS),
        nn.BatchNorm2d(_CHANNELS),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS, _CHANNELS, 1),
        nn.BatchNorm2d(_CHANNELS),
        nn.ReLU(),
    )
