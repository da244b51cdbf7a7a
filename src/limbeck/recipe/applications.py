"""The models of `keras.applications`, and what their weights were trained to take."""

from __future__ import annotations

from typing import Any

# Each with the `preprocess` of its weights. Those that take bytes standardise them inside.
APPLICATIONS: dict[str, str] = {
    **dict.fromkeys(("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152"), "caffe"),
    **dict.fromkeys(("ResNet50V2", "ResNet101V2", "ResNet152V2", "MobileNet", "MobileNetV2", "Xception"), "signed"),
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2", "NASNetMobile", "NASNetLarge"), "signed"),
    **dict.fromkeys(("DenseNet121", "DenseNet169", "DenseNet201"), "imagenet"),
    **dict.fromkeys((f"EfficientNetB{n}" for n in range(8)), "bytes"),
    **dict.fromkeys((f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")), "bytes"),
    **dict.fromkeys((f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")), "bytes"),
    **dict.fromkeys(("MobileNetV3Small", "MobileNetV3Large"), "bytes"),
}  # fmt: skip


def prepared(value: Any) -> Any:
    """A network as it is written, with the preprocessing that its weights from Keras were trained with.

    Args:
        value: a mapping of keys of a network; whatever else is given back.
    """
    if not isinstance(value, dict) or {"preprocess", "mean", "std"} & set(value):
        return value
    library, _, name = str(value.get("model", "")).partition("/")
    if library != "keras" or name not in APPLICATIONS:
        return value
    return {**value, "preprocess": APPLICATIONS[name]}
