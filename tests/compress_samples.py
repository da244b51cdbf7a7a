"""Networks to make smaller, and what every compressor must hold for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from limbeck import compress
from limbeck.models import load_weights


class Residual(nn.Module):
    """An inverted residual block with squeeze and excitation, as in MobileNetV3."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, 16, 1), nn.ReLU(), nn.Conv2d(16, inner, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.depth(self.expand(x))
        return x + self.project(inner * self.squeeze(inner))


class Encoder(nn.Module):
    """Rows of an image through torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.flatten(1, 2))).mean(1))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 40, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(40, 32, 3, padding=1, groups=4),
        nn.GroupNorm(2, 32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(32 * 4, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def resnet() -> nn.Module:
    block = timm.models.resnet.BasicBlock
    return timm.models.resnet.ResNet(block, [1, 2, 1, 1], 10, 1, channels=(16, 24, 32, 48), stem_width=16)


def mobilenet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    return nn.Sequential(
        stem, Residual(16, 48), Residual(16, 40), nn.Conv2d(16, 64, 1), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def vit() -> nn.Module:
    options = {"img_size": 12, "patch_size": 4, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **options)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (cnn, (1, 12, 12)),
    "resnet": (resnet, (1, 28, 28)),
    "mobilenet": (mobilenet, (1, 12, 12)),
    "vit": (vit, (1, 12, 12)),
    "encoder": (Encoder, (1, 12, 12)),
    "mlp": (mlp, (20,)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network as if trained, with a mixture of modes and a frozen parameter, and rows for it."""
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    model = make()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.rand(value.shape, generator=generator)
            if key.endswith("running_var") or (key.endswith("weight") and value.ndim == 1):
                value.copy_(0.5 + noise)
            elif value.ndim < 2:
                value.add_(0.4 * (noise - 0.5))
    model.train()
    next(iter(model.children())).eval()
    next(iter(model.parameters())).requires_grad_(False)
    return model, torch.randn(6, *shape, generator=generator)


def losses(x: Tensor) -> Callable[[nn.Module], Iterator[Tensor]]:
    """Three batches' cross-entropy against made-up labels."""

    def each(model: nn.Module) -> Iterator[Tensor]:
        for number, batch in enumerate(x.split(2)):
            given = model(batch)
            yield nn.functional.cross_entropy(given, torch.arange(len(batch)) + number)

    return each


class Before:
    """What a model was, to compare with later."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.flags = self.flags_of(model)

    @staticmethod
    def flags_of(model: nn.Module) -> dict[str, object]:
        told = {name: (m.training, len(m._forward_hooks), type(m)) for name, m in model.named_modules()}
        return {**told, **{name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}}

    def same(self, model: nn.Module) -> bool:
        after = model.state_dict()
        alike = all(torch.equal(after[name], value) for name, value in self.state.items())
        return after.keys() == self.state.keys() and alike and self.flags_of(model) == self.flags


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """In eval mode; the modes stay as they are."""
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        given = model.eval()(x)
    for module, mode in modes.items():
        module.training = mode
    return given


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rebuilt(name: str, model: nn.Module, edits: list[compress.Edit], path: Path) -> nn.Module:
    """The model once more: from its name, and the edits and weights in a file."""
    compress.save(model, edits, path, metadata={"model": name})
    torch.manual_seed(99)  # other initial weights than the model had
    fresh = compress.replay(NETWORKS[name][0](), compress.edits_of(path))
    assert load_weights(fresh, path) == []
    return fresh
