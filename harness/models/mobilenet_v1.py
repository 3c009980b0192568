"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861): depthwise separable convolutions behind one another."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.initial import keep_variance

# Output channels at width 1, and stride, of the thirteen separable blocks: table 1 of the paper.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNetV1(nn.Module):
    """Input (N, 3, R, R) float32; returns logits (N, classes). width: multiplies every layer's channels.

    At width 1 with 1,000 classes: 4,231,976 parameters, 4,209,088 of which are weights.
    """

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels = int(32 * width)
        layers = [_convolution(3, channels, 3, stride=2)]
        for outputs, stride in _BLOCKS:
            narrowed = int(outputs * width)
            layers.append(
                nn.Sequential(
                    _convolution(channels, channels, 3, stride=stride, groups=channels),
                    _convolution(channels, narrowed, 1),
                )
            )
            channels = narrowed
        self.model = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.model(x)).flatten(1))
        return logits


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
