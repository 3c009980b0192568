"""The second network of Unlu 2020 (arXiv 2007.01348), which is also CMSIS-NN's CIFAR example: three convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CifarNet(nn.Module):
    """33,210 parameters. Input (N, 3, 32, 32) float32 in [0, 1]; returns logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 16, 5, padding=2)
        self.conv3 = nn.Conv2d(16, 32, 5, padding=2)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # 32 x 16 x 16
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # 16 x 8 x 8
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)  # 32 x 4 x 4
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits
