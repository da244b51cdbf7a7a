"""keras.distillation.Distiller as a contender:  python keras_distiller.py {tensorflow,jax,torch} rows.npz

Its loss is given as an object: by name, Keras 3.15 hands raw logits to a function that takes probabilities.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = backend = sys.argv[1]

import keras
import numpy as np
from turns import Turns

if backend == "tensorflow":
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
elif backend == "torch":
    import torch

    torch.set_num_threads(1)


def conv_leaky(channels: list[int]) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(channels[0], 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.MaxPooling2D(2, strides=1, padding="same"),
            layers.Conv2D(channels[1], 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


class Turn(keras.callbacks.Callback):
    """Calls `Turns.step` before every step.

    Only the beginning of a step is overridden: Keras then has no reason to read a loss after each of them.
    """

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        turns.step(first=batch == 0)

    def finished(self) -> None:
        """Wait for steps that were dispatched and have not been computed yet: JAX runs some 30 of them ahead."""
        if backend == "jax":
            # One by one, for Keras keeps them in containers that jax.block_until_ready takes for leaves and passes by.
            for values in self.model._jax_state.values():
                for value in values:
                    value.block_until_ready()


callback = Turn()
turns = Turns(sync=callback.finished)
rows = np.load(sys.argv[2], allow_pickle=False)
x = (rows["x"].reshape(-1, 28, 28, 1).astype("float32") / 255 - rows["mean"]) / rows["std"]
teacher, student = conv_leaky([256, 512]), conv_leaky([16, 32])
turns.info["parameters"] = [teacher.count_params(), student.count_params()]
distiller = keras.distillation.Distiller(
    teacher=teacher,
    student=student,
    distillation_losses=keras.distillation.LogitsDistillation(temperature=10, loss=keras.losses.KLDivergence()),
    student_loss_weight=0.1,
)
distiller.compile(
    optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
)
distiller.fit(x, rows["y"], batch_size=64, epochs=100_000, verbose=0, callbacks=[callback])
