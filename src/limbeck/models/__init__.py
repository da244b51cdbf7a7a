"""Networks: the reference ones by name, any timm model by name, weights in and out.

Every network built here gives logits [B, C] or values [B, K].
"""

from limbeck.models.archive import read_keras
from limbeck.models.building import build, channels_last, normalization, try_out
from limbeck.models.foreign import Foreign, foreign, given
from limbeck.models.inputs import PREPROCESSING, Normalized, plain
from limbeck.models.keras import KerasNetwork
from limbeck.models.networks import NETWORKS
from limbeck.models.softmax import as_logits, gives_probabilities, log_odds, log_probabilities, probable, to_logits
from limbeck.models.weights import load_weights, metadata_of, save_weights

__all__ = [
    "NETWORKS",
    "PREPROCESSING",
    "Foreign",
    "KerasNetwork",
    "Normalized",
    "as_logits",
    "build",
    "channels_last",
    "foreign",
    "given",
    "gives_probabilities",
    "load_weights",
    "log_odds",
    "log_probabilities",
    "metadata_of",
    "normalization",
    "plain",
    "probable",
    "read_keras",
    "save_weights",
    "to_logits",
    "try_out",
]
