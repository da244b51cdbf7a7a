"""What Keras can do in a recipe, and what it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.core import signatures
from limbeck.recipe.model_source import KerasApplication, ModelFile, Reference, Timm
from limbeck.recipe.networks import Network

# Formats that are made of the graph in a way that Keras's channels-last convolutions do not survive.
NOT_OF_KERAS = ("executorch", "executorch-int8")


def of_keras(network: Network, framework: str) -> bool:
    """Whether a network is a model of Keras here; of one that code makes, only the code knows."""
    source = network.source
    made = isinstance(source, KerasApplication) or (isinstance(source, ModelFile) and source.kind.name == "keras")
    return made or (framework == "keras" and twin(network))


def twin(network: Network) -> bool:
    """Whether it is a reference network that is there for both frameworks."""
    known = signatures.networks().get(network.model)
    return known is not None and known.family == "reference"


def framework_misfit(framework: str, networks: Sequence[tuple[str, Network]]) -> tuple[str, str] | None:
    """Which network does not suit a framework, if one does not.

    Args:
        framework: of the recipe.
        networks: all of the recipe's, each with its dotted place.

    Returns:
        The dotted place and what is wrong with it.
    """
    if framework != "keras":
        return None
    if not any(twin(network) for _, network in networks):
        return "framework", "has no effect: `keras` is about reference networks, and there is none"
    for place, network in networks:
        if isinstance(network.source, Timm) or (type(network.source) is Reference and not twin(network)):
            return f"{place}.model", f"'{network.model}' has no twin in Keras; keras/NAME is one of its own models"
        if twin(network) and network.pretrained and not (network.preprocess or network.mean):
            return f"{place}.preprocess", "is `caffe` for the weights that Keras has for VGG-19: say so"
    return None


def student_misfit(
    student: Network, *, keras: bool, edited_by: Sequence[str], export: Sequence[str]
) -> tuple[str, str] | None:
    """What is asked of a student that a model of Keras cannot do, or only that can.

    Args:
        student: for its name.
        keras: whether it is a model of Keras.
        edited_by: keys of the recipe that change its layers.
        export: formats that are asked for.

    Returns:
        The dotted place and what is wrong with it; None where nothing is.
    """
    if not keras:
        return ("export", "`keras` is for students of Keras: see `framework`") if "keras" in export else None
    for key in edited_by:
        return key, f"edits layers of PyTorch, and the student '{student.model}' is a model of Keras"
    for name in export:
        if name in NOT_OF_KERAS:
            return "export", f"`{name}` cannot be made of a model of Keras; litert and onnx can"
    return None
