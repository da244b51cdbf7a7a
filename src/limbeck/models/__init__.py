"""Networks: the reference ones by name, any timm model by name, weights in and out.

Every network built here gives logits [B, C] or values [B, K].
"""

from limbeck.models.build import NETWORKS, build, channels_last, normalization, try_out
from limbeck.models.external import ExternalModel, external_model, given
from limbeck.models.keras.archive import read_keras
from limbeck.models.keras.network import KerasNetwork
from limbeck.models.logits import as_logits, gives_probabilities, log_odds, log_probabilities, probable, to_logits
from limbeck.models.normalization import PREPROCESSING, Normalized, plain
from limbeck.models.weights import load_weights, metadata_of, save_weights

__all__ = [
    "NETWORKS",
    "PREPROCESSING",
    "ExternalModel",
    "KerasNetwork",
    "Normalized",
    "as_logits",
    "build",
    "channels_last",
    "external_model",
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
