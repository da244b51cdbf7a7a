"""Compose a data set for `task: segmentation` from the pictures of the game Battle for Wesnoth.

    python examples/compose_masks.py --out wesnoth-masks

The scenes are composed, not photographed: units' sprites, whose masks are exactly their transparency, stand on tiles of
terrain. Classes are five peoples and the background. Units are dealt out to train, val and test before any scene is
made, so that no figure of the test images is ever learned from. The pictures are those of the Debian package
wesnoth-1.16-data (GPL 2 or later, some CC BY-SA 4.0); nothing of them is part of this project.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from PIL import Image

from limbeck.core.pictures import picture

PICTURES = next(Path("/usr/share/games/wesnoth").glob("*/data/core/images"), Path("data/core/images"))
PEOPLES = {"elves": "elves-wood", "orcs": "orcs", "undead": "undead-skeletal", "drakes": "drakes", "dwarves": "dwarves"}
TERRAINS = ("grass/green", "grass/dry", "flat/dirt", "flat/road", "sand/beach", "sand/desert", "cave/floor")
SHARES = {"train": 0.66, "val": 0.12, "test": 0.22}
VOID = 255
CLEAR, SOLID = 51, 204  # of 255: between them a pixel is neither figure nor background
MOST_FIGURES = 3


def sprites(folder: Path) -> dict[str, list[Path]]:
    """Pictures of each unit by its name: `archer+female-sword-1.png` is one of the archer."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        if re.search(r"-(die|death|halo|dying)", path.stem):
            continue
        found.setdefault(f"{path.parent.name}/{re.split(r'[-+0-9]', path.stem)[0]}", []).append(path)
    return found


def dealt(names: list[str], random: np.random.Generator) -> dict[str, list[str]]:
    """Names of units for each part, at least one for each."""
    order = [names[n] for n in random.permutation(len(names))]
    test, val = (max(1, round(SHARES[part] * len(order))) for part in ("test", "val"))
    return {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}


def ground(size: int, tiles: list[Image.Image], random: np.random.Generator) -> Image.Image:
    """Hexagons of one terrain side by side, as the game lays them, from a random corner."""
    colour = tuple(tiles[0].resize((1, 1), box=(24, 24, 48, 48)).getpixel((0, 0)))
    scene = Image.new("RGBA", (size, size), (*colour[:3], 255))  # what shows between tiles that leave gaps
    left, top = (int(v) for v in random.integers(0, 72, 2))
    for column in range(-2, size // 54 + 2):
        for row in range(-2, size // 72 + 2):
            tile = tiles[int(random.integers(len(tiles)))]
            scene.alpha_composite(_at(tile, size, column * 54 - left + 54, row * 72 - top + 72 + 36 * (column % 2)))
    return scene


def _at(image: Image.Image, size: int, x: int, y: int) -> Image.Image:
    layer = Image.new("RGBA", (size, size))
    layer.paste(image, (x, y))
    return layer


def composed(
    size: int, figures: list[list[Path]], tiles: list[Image.Image], random: np.random.Generator
) -> tuple[Image.Image, np.ndarray]:
    """A scene, and the class of each of its pixels; later figures stand before earlier ones."""
    scene, mask = ground(size, tiles, random), np.zeros((size, size), np.uint8)
    for _ in range(int(random.integers(1, MOST_FIGURES + 1))):
        people = int(random.integers(len(figures)))
        figure = Image.open(figures[people][int(random.integers(len(figures[people])))]).convert("RGBA")
        figure = figure.crop(figure.getbbox())
        scale = random.uniform(0.6, 1.1) * size / 96
        figure = figure.resize([max(8, round(side * scale)) for side in figure.size], Image.Resampling.LANCZOS)
        if random.random() < 0.5:
            figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x, y = (int(random.integers(-side // 4, max(1, size - 3 * side // 4))) for side in figure.size)
        layer = _at(figure, size, x, y)
        scene.alpha_composite(layer)
        alpha = np.asarray(layer)[..., 3]
        mask[(alpha > CLEAR) & (alpha < SOLID)] = VOID
        mask[alpha >= SOLID] = people + 1
    return scene.convert("RGB"), mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, which must not be there yet")
    parser.add_argument("--count", type=int, default=3000, help="images of all parts together")
    parser.add_argument("--size", type=int, default=72, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="the game's data/core/images")
    given = parser.parse_args()
    if not given.pictures.is_dir():
        parser.error(f"{given.pictures} is not there: install wesnoth-1.16-data, or say --pictures")
    if given.out.exists():
        parser.error(f"{given.out} is there already")
    random = np.random.default_rng(given.seed)
    units = [sprites(given.pictures / "units" / folder) for folder in PEOPLES.values()]
    parts = [dealt(sorted(known), random) for known in units]
    terrain = given.pictures / "terrain"
    kinds = [[terrain / f"{name}.png", *sorted(terrain.glob(f"{name}[0-9]*.png"))[:3]] for name in TERRAINS]
    terrains = [[Image.open(path).convert("RGBA") for path in kind] for kind in kinds]
    for part, share in SHARES.items():
        figures = [
            [path for name in dealt_out[part] for path in known[name]]
            for known, dealt_out in zip(units, parts, strict=True)
        ]
        for folder in ("images", "masks"):
            (given.out / part / folder).mkdir(parents=True)
        for number in range(round(share * given.count)):
            scene, mask = composed(given.size, figures, terrains[int(random.integers(len(terrains)))], random)
            scene.save(given.out / part / "images" / f"{number:05}.png")
            picture(mask, VOID + 1).save(given.out / part / "masks" / f"{number:05}.png")
        print(f"{part}: {round(share * given.count)} images, {sum(len(f) for f in figures)} sprites")
    (given.out / "classes.txt").write_text("\n".join(["background", *PEOPLES]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
