"""A small network of one's own: handwritten digits, 8x8 pixels, ten classes.

`harness run digits_net.py:make_model` calls make_model() and loads the weights into what it returns. Convolutions,
linear layers, ReLU and pooling, one after the other, are what it understands.
"""

from torch import nn


def make_model() -> nn.Sequential:
    """The network, without its weights. Input: (N, 1, 8, 8), floats."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 2 * 2, 10),
    )
