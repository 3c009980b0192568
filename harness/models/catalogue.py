"""The networks that ship with the harness, and their weights on disk. Listing them imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError, unknown_name
from harness.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam, cosine decay to zero after a warm-up of one epoch, cross-entropy.

    shift: every image moves by up to that many pixels each way; rotate: degrees, scale: fraction, both up to that much
    either way; flip: left and right are exchanged for half the images. whole_pixels: shifts are rounded, so nothing
    is blurred. channels_last: the layout in which torch computes; half the time for 3x3 convolutions, other roundings.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    whole_pixels: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class CatalogueEntry:
    """One network. factory: "module:callable", called with `arguments`; input_shape: (H, W, C).

    dataset: the one it is trained and measured on, or None where that cannot be had here (ImageNet, Speech Commands).
    weights: file name, or None for a network that ships untrained. recipe: None where there is no dataset.
    """

    name: str
    factory: str
    input_shape: tuple[int, int, int]
    classes: int
    description: str
    arguments: tuple[float | int, ...] = ()
    dataset: str | None = None
    weights: str | None = None
    recipe: Recipe | None = None

    @property
    def weights_path(self) -> Path | None:
        """The shipped weights, or None for a network that ships untrained."""
        return None if self.weights is None else _WEIGHTS / self.weights


# MobileNetV1's widths and resolutions: table 6 and 7 of arXiv 1704.04861, and 96, as Visual Wake Words uses it.
_WIDTHS = (0.25, 0.5, 0.75, 1.0)
_RESOLUTIONS = (96, 128, 160, 192, 224)

_IMAGENET = (
    *(
        CatalogueEntry(
            name=f"mobilenet-v1-{width}-{resolution}",
            factory="harness.models.mobilenet_v1:MobileNetV1",
            arguments=(width, 1000),
            input_shape=(resolution, resolution, 3),
            classes=1000,
            description=f"MobileNetV1, width {width}, for ImageNet at {resolution}x{resolution}",
        )
        for width in _WIDTHS
        for resolution in _RESOLUTIONS
    ),
    CatalogueEntry(
        name="mobilenet-v2-1.0-224",
        factory="harness.models.mobilenet_v2:MobileNetV2",
        input_shape=(224, 224, 3),
        classes=1000,
        description="MobileNetV2, width 1, for ImageNet; torchvision's parameter names",
    ),
    CatalogueEntry(
        name="mnasnet-b1-1.0-224",
        factory="harness.models.mnasnet:MNasNetB1",
        input_shape=(224, 224, 3),
        classes=1000,
        description="MNasNet-B1, depth 1, for ImageNet; torchvision's parameter names",
    ),
)

# Small photographs with batch normalisation: crops by whole pixels and mirror images, as is usual for CIFAR-10.
_PHOTOGRAPHS = Recipe(
    epochs=30,
    learning_rate=4e-3,
    batch_size=128,
    weight_decay=0.01,
    shift=4,
    flip=True,
    whole_pixels=True,
    channels_last=True,
)

_ENTRIES = {
    entry.name: entry
    for entry in (
        *_IMAGENET,
        CatalogueEntry(
            name="mobilenet-v1-0.25-32",
            factory="harness.models.mobilenet_v1:MobileNetV1",
            arguments=(0.25, 10),
            input_shape=(32, 32, 3),
            classes=10,
            dataset="cifar10-jpeg",
            weights="mobilenet-v1-0.25-32.safetensors",
            recipe=_PHOTOGRAPHS,
            description="MobileNetV1, width 0.25, on small photographs: its published strides leave one pixel of 32x32",
        ),
        CatalogueEntry(
            name="resnet8",
            factory="harness.models.resnet8:ResNet8",
            input_shape=(32, 32, 3),
            classes=10,
            dataset="cifar10-jpeg",
            weights="resnet8.safetensors",
            recipe=replace(_PHOTOGRAPHS, epochs=60),
            description="ResNet-8 of MLPerf Tiny: small photographs",
        ),
        CatalogueEntry(
            name="ds-cnn",
            factory="harness.models.ds_cnn:DsCnn",
            input_shape=(49, 10, 1),
            classes=12,
            description="DS-CNN of MLPerf Tiny: twelve spoken words, 49 frames of 10 MFCCs",
        ),
        CatalogueEntry(
            name="mobilenet-v1-0.25-vww",
            factory="harness.models.mobilenet_v1:MobileNetV1",
            arguments=(0.25, 2),
            input_shape=(96, 96, 3),
            classes=2,
            description="MobileNetV1, width 0.25, of MLPerf Tiny: is there a person in the picture",
        ),
        CatalogueEntry(
            name="autoencoder",
            factory="harness.models.autoencoder:Autoencoder",
            input_shape=(1, 1, 640),
            classes=640,
            description="ten fully connected layers of MLPerf Tiny: is the sound of a machine unusual",
        ),
        CatalogueEntry(
            name="cifar-net",
            factory="harness.models.cifar_net:CifarNet",
            input_shape=(32, 32, 3),
            classes=10,
            dataset="cifar10-jpeg",
            weights="cifar-net.safetensors",
            recipe=Recipe(epochs=20, learning_rate=3e-3, batch_size=128, shift=3, flip=True),
            description="three 5x5 convolutions (Unlu 2020, CMSIS-NN's example): small photographs, 33,210 parameters",
        ),
        CatalogueEntry(
            name="lenet5",
            factory="harness.models.lenet5:LeNet5",
            input_shape=(32, 32, 1),
            classes=10,
            dataset="mnist",
            weights="lenet5.safetensors",
            recipe=Recipe(epochs=60, learning_rate=3e-3, batch_size=256, shift=2, rotate=10.0, scale=0.1),
            description="LeNet-5 with ReLU and max-pooling: handwritten digits, 61,706 parameters",
        ),
    )
}


def names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(_ENTRIES))


def entry(name: str) -> CatalogueEntry:
    """The network called `name`; unknown names raise InputError with the nearest ones."""
    if name not in _ENTRIES:
        raise unknown_name("model", name, _ENTRIES)
    return _ENTRIES[name]


def build(entry: CatalogueEntry) -> nn.Module:
    """A new, untrained module, its weights drawn from torch's global generator."""
    module, _, factory = entry.factory.partition(":")
    network: nn.Module = getattr(importlib.import_module(module), factory)(*entry.arguments)
    return network


def load_weights(module: nn.Module, path: Path) -> str:
    """Fill `module` with the tensors of `path`: a .safetensors file, or a .pt or .pth state dict. Returns its SHA-256.

    Nothing in the file is executed. Channels without a single weight other than zero are legal. InputError, with the
    module left as it was: an unreadable or damaged file, tensors missing, unexpected, of another shape or kind of
    number, or NaN or infinite; the message names the first such tensor.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {error.strerror}") from error
    tensors = _parse(path, content)
    expected = module.state_dict()
    _check_names(path, list(expected), sorted(tensors))
    for name, target in expected.items():
        tensor = tensors[name]
        if tensor.shape != target.shape:
            raise InputError(
                f"{path} holds weights of another network: {name} is {_shape(tensor)}, "
                f"{type(module).__name__} has {_shape(target)}"
            )
        if tensor.is_floating_point() != target.is_floating_point():
            raise InputError(f"{path}: {name} holds {tensor.dtype}, {type(module).__name__} has {target.dtype}")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinite values", hint="train again, or use another file")
    module.load_state_dict(tensors)
    return hashlib.sha256(content).hexdigest()


def save_weights(path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `state_dict` as safetensors, whole or not at all; InputError where `path` cannot be written.

    metadata: how the weights were made (dataset, seed, epochs, test accuracy, torch version).
    """
    from safetensors.torch import save

    # Copies, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    content = save(tensors, dict(metadata))
    # safetensors writes the metadata in random order; sorted, the same weights are the same file, so the same SHA-256.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    write_whole(path, len(header).to_bytes(8, "little") + header + content[8 + size :])


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` noted in a safetensors file; empty where nothing was noted. InputError for a damaged file."""
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        return dict(header.get("__metadata__", {}))
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _parse(path: Path, content: bytes) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix == ".safetensors":
        try:
            return dict(load(content))
        except SafetensorError as error:
            raise _damaged(path, error) from error
    if path.suffix not in (".pt", ".pth"):
        raise InputError(f"weights file {path} is not .safetensors, .pt or .pth", hint=_HOW_TO_SAVE)
    try:
        with warnings.catch_warnings():
            # Remarks on the pickle's protocol: it either loads or it does not.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own text advises to switch the protection off; ours must not.
        raise InputError(f"weights file {path} is damaged, or holds more than tensors", hint=_HOW_TO_SAVE) from error
    except Exception as error:  # what a damaged pickle makes of its reader is anything
        raise _damaged(path, error) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"weights file {path} holds no state dict", hint=_HOW_TO_SAVE)
    return loaded


_HOW_TO_SAVE = "save it with safetensors.torch.save_file(model.state_dict(), path)"


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"weights file {path} is damaged: {reason}", hint="train again, or fetch the file again")


def _check_names(path: Path, expected: list[str], found: list[str]) -> None:
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
    }
    parts = [
        f"{names[0]} is {kind}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
        for kind, names in differences.items()
        if names
    ]
    if parts:
        raise InputError(
            f"{path} holds weights of another network: {', '.join(parts)}", hint=f"expected: {', '.join(expected)}"
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"
