"""Write a learnable stand-in for CIFAR-10 in CIFAR-10's own binary layout: Fashion-MNIST over patches of photographs.

    python benchmarks/cifar_standin.py /tmp/standin --train 2000 --test 1000
    limbeck run cifar10-vgg19 data.path=/tmp/standin ...

Each image is |photo - garment|, 32x32 in colour, the photographs being scikit-learn's two. It is not CIFAR-10, and no
figure measured on it is one on CIFAR-10.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from limbeck.data import load
from limbeck.recipe import Data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written anew; must not exist")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    options = parser.parse_args()
    garments = load(Data(source="fashion-mnist"), "classification")
    photos = load_sample_images().images
    random = np.random.default_rng(0)
    options.folder.mkdir(parents=True)
    learn = np.concatenate([garments.train.numpy(), garments.val.numpy()])
    parts = {
        f"data_batch_{n + 1}.bin": rows
        for n, rows in enumerate(np.split(random.permutation(learn)[: options.train // 5 * 5], 5))
    }
    parts["test_batch.bin"] = random.permutation(garments.test.numpy())[: options.test]
    for name, rows in parts.items():
        images = np.zeros((len(rows), 3, 32, 32), np.uint8)
        for image, row in zip(images, rows, strict=True):
            photo = photos[random.integers(len(photos))]
            top, left = (random.integers(side - 32) for side in photo.shape[:2])
            patch = photo[top : top + 32, left : left + 32].transpose(2, 0, 1).astype(np.int16)
            patch[:, 2:30, 2:30] -= garments.x[row].numpy()
            image[:] = np.abs(patch)
        labels = garments.y[rows].numpy().astype(np.uint8)
        records = np.concatenate([labels[:, None], images.reshape(len(rows), -1)], axis=1)
        (options.folder / name).write_bytes(records.tobytes())
    (options.folder / "batches.meta.txt").write_text("\n".join(garments.task.names) + "\n")


if __name__ == "__main__":
    main()
