"""Trains the network in a few seconds and writes what harness needs: weights.safetensors and digits.npz."""

import numpy as np
import torch
from digits_net import make_model
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

# The network sees (pixel - MEAN) / STD. One mean that is a whole number costs nothing on the board: it becomes the
# zero point of the input.
MEAN, STD = 75, 100

digits = load_digits()
pixels = (digits.images * 15).astype(np.uint8)[..., np.newaxis]  # 0..16 to 0..240; N, H, W, C
order = np.random.RandomState(0).permutation(len(pixels))
pixels, labels = pixels[order], digits.target[order]
training = 1400  # the others are for testing alone

torch.manual_seed(0)
model = make_model()
images = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(0, 3, 1, 2)
targets = torch.from_numpy(labels)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(30):
    for batch in torch.randperm(training).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), targets[batch]).backward()
        optimizer.step()

with torch.no_grad():
    right = (model(images[training:]).argmax(1) == targets[training:]).float().mean()
print(f"accuracy on digits that were not trained with: {right:.1%}")
save_file(model.state_dict(), "weights.safetensors")
np.savez(
    "digits.npz",
    x=pixels[:training],
    y=labels[:training],
    x_test=pixels[training:],
    y_test=labels[training:],
    layout="NHWC",
    mean=MEAN,
    std=STD,
)
