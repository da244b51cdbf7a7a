"""Distil a network of your own, from tensors of your own, with the parts by themselves.

python examples/own_tensors.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import limbeck

x, y = load_digits(return_X_y=True)
data = limbeck.from_arrays(torch.tensor(x / 16, dtype=torch.float32), y)  # three splits, stratified
teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
student = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

labels = limbeck.Objective([limbeck.Term("hard", limbeck.bind("hard"), weight=1.0)])
limbeck.fit(teacher, labels, None, data, limbeck.Plan(epochs=20))

soft_targets = limbeck.Term("kd", limbeck.bind("kd", temperature=4.0), weight=0.9)
objective = limbeck.Objective([limbeck.Term("hard", limbeck.bind("hard"), weight=0.1), soft_targets])
limbeck.fit(student, objective, limbeck.Frozen(teacher), data, limbeck.Plan(epochs=40))

for name, network in {"teacher": teacher, "student": student}.items():
    print(f"{name}: {limbeck.assess(network, data)['accuracy']:.2%} on the test split")
