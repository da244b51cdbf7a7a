"""What Keras can do in a recipe, and what it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.recipe.networks import Network
    from limbeck.recipe.schema import Recipe

# The models of keras.applications, each with what its weights were trained to take: see `preprocess`. Those that take
# bytes standardise them inside.
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
# Formats that are made of the graph in a way that Keras's channels-last convolutions do not survive.
NOT_OF_KERAS = ("executorch", "executorch-int8")


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


def of_keras(network: Network, framework: str) -> bool:
    """Whether a network is a model of Keras here."""
    return network.origin == "keras" or network.kind == "keras" or (framework == "keras" and twin(network))


def twin(network: Network) -> bool:
    """Whether it is a reference network, which is there for both frameworks."""
    return network.origin == "reference"


def misfit(recipe: Recipe) -> tuple[str, str] | None:
    """What about Keras does not fit in a recipe: the dotted place and what is wrong with it; None where nothing is."""
    networks: list[tuple[str, Network]] = [(f"teachers.{i}", t) for i, t in enumerate(recipe.teachers)]
    networks += [(f"assistants.{i}", a) for i, a in enumerate(recipe.assistants)]
    networks += [("student", recipe.student)]
    if recipe.framework == "keras":
        if not any(twin(network) for _, network in networks):
            return "framework", "has no effect: `keras` is about reference networks, and there is none"
        for place, network in networks:
            if network.origin == "timm":
                return f"{place}.model", f"'{network.model}' has no twin in Keras; keras/NAME is one of its own models"
            if twin(network) and network.pretrained and not (network.preprocess or network.mean):
                return f"{place}.preprocess", "is `caffe` for the weights that Keras has for VGG-19: say so"
    if recipe.student.origin == "code":
        return None  # only the function knows what it makes
    return student_misfit(recipe, of_keras(recipe.student, recipe.framework))


def student_misfit(recipe: Recipe, keras: bool) -> tuple[str, str] | None:
    """What in a recipe a student cannot do that is of Keras, or is not: the dotted place and what is wrong with it."""
    if not keras:
        return ("export", "`keras` is for students of Keras: see `framework`") if "keras" in recipe.export else None
    for key in ("compress", "budget"):
        if getattr(recipe, key):
            return key, f"edits layers of PyTorch, and the student '{recipe.student.model}' is a model of Keras"
    for name in recipe.export:
        if name in NOT_OF_KERAS:
            return "export", f"`{name}` cannot be made of a model of Keras; litert and onnx can"
    return None
