"""Published weights: whether they are in a cache, and whether the place they come from can be reached."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from limbeck.core.types import Framework
from limbeck.recipe import Network
from limbeck.recipe.needs.catalogue import Weights, weights_of

USUAL = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Unfetchable:
    """Why the weights of a network cannot be had, and of which of its keys that is said."""

    key: str
    what: str
    hint: str


def unfetchable(network: Network, framework: Framework) -> Unfetchable | None:
    """Why published weights that are asked for cannot be had; None where nothing is known to stand against it.

    Somebody is called only where the weights are in no cache, and then to see whether there is any answer at all.
    """
    library, _, name = network.model.partition("/")
    if network.model == "vgg19-gap":
        library, name = ("keras", "VGG19") if framework == "keras" else ("timm", "vgg19")
    pretrained = network.pretrained and not network.weights
    source, _, repository = name.partition(":")
    if library == "timm" and repository and source.lower().replace("_", "-") == "hf-hub":
        here = _cached(repository, ["config.json"]) and (not pretrained or _cached(repository, USUAL))
        return None if here else _not_on_hub(network.model, "model")
    if library == "timm" and pretrained and (published := weights_of(name)):
        return _of_timm(network.model, published)
    if library == "keras" and pretrained:
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models").expanduser()
        bare = [re.sub(r"[^a-z0-9]", "", path.name.lower()) for path in folder.glob("*")]
        if not any(name.lower() in file and "notop" in file for file in bare):
            return _refused(network.model, "pretrained", folder, KERAS)
    return None


def _of_timm(model: str, published: Weights) -> Unfetchable | None:
    if published == Weights():
        what = f"timm has no weights of {model.removeprefix('timm/')}"
        return Unfetchable("pretrained", what, "train it from scratch, or give a file as `weights`")
    if published.hub:
        files = [*([published.file] if published.file else []), *USUAL]
        return None if _cached(published.hub, files) else _not_on_hub(model, "pretrained")
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch")
    folder = Path(home, "hub", "checkpoints").expanduser()
    if (folder / published.url.rpartition("/")[2]).exists():
        return None
    return _refused(model, "pretrained", folder, published.url)


def _cached(repository: str, files: Iterable[str]) -> bool:
    """Whether one of some files of a repository is in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision or None), str) for file in files)


def _not_on_hub(model: str, key: str) -> Unfetchable | None:
    from huggingface_hub import constants

    return _refused(model, key, Path(constants.HF_HUB_CACHE), "" if constants.HF_HUB_OFFLINE else constants.ENDPOINT)


def _refused(model: str, key: str, folder: Path, address: str) -> Unfetchable | None:
    """What to say of weights that are not in a folder, unless somebody answers at the address; none is offline."""
    if address and _answers(address):
        return None
    where = "/".join(address.split("/")[:3])
    why = f"{where} cannot be reached" if address else "HF_HUB_OFFLINE says not to fetch them"
    what = f"the weights of {model} are not in {folder}, and {why}"
    return Unfetchable(key, what, "give a file as `weights`, or train from scratch with `pretrained: false`")


@functools.cache
def _answers(address: str) -> bool:
    """Whether anybody answers there, whatever it says."""
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, getproxies, urlopen

    if any(proxy.startswith("socks") for proxy in getproxies().values()):
        return True  # the library that fetches them knows such a proxy, and this one does not
    try:
        urlopen(Request(address, method="HEAD"), timeout=WAIT_S).close()
    except (HTTPError, HTTPException):
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True
