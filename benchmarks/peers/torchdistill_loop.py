"""torchdistill's KD loop as a contender:  python torchdistill_loop.py rows.npz

The loop is that of its example scripts; the models, data and losses are configured as its YAML files do it.
"""

import logging
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import RandomSampler, TensorDataset
from torchdistill.core.distillation import get_distillation_box
from turns import Turns


def conv_leaky(channels: list[int]) -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(1, channels[0], 3, stride=2),
        nn.LeakyReLU(0.2),
        nn.ReplicationPad2d((0, 1, 0, 1)),
        nn.MaxPool2d(2, stride=1),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(channels[0], channels[1], 3, stride=2),
        nn.Flatten(),
        nn.Linear(channels[1] * 7 * 7, 10),
    )


class Rows(TensorDataset):
    """Hands out labels as numbers, as torchvision's data sets do."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.tensors[0][index], int(self.tensors[1][index])


CONFIG = {
    "num_epochs": 1,
    "train_data_loader": {
        "dataset_id": "train",
        "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
        "kwargs": {"batch_size": 64, "num_workers": 0},
    },
    "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
    "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
    "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-3}},
    "criterion": {
        "key": "WeightedSumLoss",
        "kwargs": {
            "sub_terms": {
                "kd": {
                    "criterion": {
                        "key": "KDLoss",
                        "kwargs": {
                            "student_module_path": ".",
                            "student_module_io": "output",
                            "teacher_module_path": ".",
                            "teacher_module_io": "output",
                            "temperature": 10.0,
                            "alpha": 0.1,
                        },
                    },
                    "weight": 1.0,
                }
            }
        },
    },
}

torch.set_num_threads(1)
logging.disable(logging.INFO)
turns = Turns()
rows = np.load(sys.argv[1], allow_pickle=False)
x = (torch.from_numpy(rows["x"]).reshape(-1, 1, 28, 28).float() / 255 - float(rows["mean"])) / float(rows["std"])
teacher, student = conv_leaky([256, 512]).eval(), conv_leaky([16, 32])
turns.info["parameters"] = [sum(p.numel() for p in model.parameters()) for model in (teacher, student)]
data = {"train": Rows(x, torch.from_numpy(rows["y"]))}
box = get_distillation_box(teacher, student, data, CONFIG, torch.device("cpu"), None, False, 1.0)
for epoch in range(100_000):
    box.pre_epoch_process(epoch=epoch)
    for step, (images, labels, more) in enumerate(box.train_data_loader):
        turns.step(first=step == 0)
        box.post_forward_process(loss=box.forward_process(images, labels, more))
    box.post_epoch_process()
