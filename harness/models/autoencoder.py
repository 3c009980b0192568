"""The autoencoder of MLPerf Tiny's anomaly detection (Koizumi et al. 2020, arXiv 2006.05822; Banbury et al. 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from harness.models.initial import keep_variance

_FEATURES = 640
_WIDTHS = (128, 128, 128, 128, 8, 128, 128, 128, 128)


class Autoencoder(nn.Module):
    """Ten fully connected layers. Input (N, 640, 1, 1): five frames of 128 mel bands; returns them again, (N, 640)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten(1)]
        inputs = _FEATURES
        for width in _WIDTHS:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, _FEATURES))
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y
