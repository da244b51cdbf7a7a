"""Folders of images: every kind of file, pixel by pixel, and every way in which a folder can be wrong."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need
from PIL import Image

from limbeck import data, recipe
from limbeck.core.errors import UserError
from limbeck.core.readers.images import decode, guarded

UNITS = next(iter(sorted(Path("/usr/share/games/wesnoth").glob("*/data/core/images/units"))), None)
COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200)}


def load(path, **fields):
    return data.load(
        recipe.Data.model_validate({"source": "folder", "path": str(path), "size": 8, **fields}), "classification"
    )


def fill(folder, colour, count, size=(8, 8), first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        # The green channel numbers the images, so that a row can be traced to its file.
        Image.new("RGB", size, (colour[0], k, colour[2])).save(folder / f"{k:03d}.png")


@pytest.fixture
def two(tmp_path):
    """Two classes with ten images each."""
    for name, colour in COLOURS.items():
        fill(tmp_path / "images" / name, colour, 10)
    return tmp_path / "images"


def pixel(path, background="white", channels=3, size=8, at=(0, 0)):
    """One pixel of a decoded image, as a tuple."""
    with guarded():
        found = decode(path, size, channels, background)
    assert isinstance(found, np.ndarray), found
    assert found.shape == (channels, size, size)
    assert found.dtype == np.uint8
    return tuple(int(v) for v in found[:, at[0], at[1]])


# --- one image -----------------------------------------------------------------------------------


def test_transparent_pixels_become_the_background(tmp_path):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    image.putpixel((0, 0), (255, 0, 255, 0))  # clear, over a colour that must not show
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.save(path := tmp_path / "a.png")
    assert pixel(path) == (255, 255, 255)
    assert pixel(path, "black") == (0, 0, 0)
    assert pixel(path, "grey") == (128, 128, 128)
    assert pixel(path, at=(1, 1)) == (10, 20, 30)
    assert all(abs(v - 127) <= 1 for v in pixel(path, at=(0, 1)))


def test_palette_images_with_a_transparent_entry(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 255, 10, 200, 30, 0, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(path := tmp_path / "number.png", transparency=0)
    assert pixel(path) == (255, 255, 255)
    assert pixel(path, at=(1, 1)) == (10, 200, 30)
    image.save(path := tmp_path / "bytes.png", transparency=bytes([0, 255, 128]))
    assert pixel(path, "black") == (0, 0, 0)
    assert pixel(path, "black", at=(1, 1)) == (10, 200, 30)
    image.save(path := tmp_path / "opaque.png")
    assert pixel(path) == (255, 0, 255)


def test_grey_images_and_one_channel(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert pixel(tmp_path / "grey.png") == (77, 77, 77)
    assert pixel(tmp_path / "grey.png", channels=1) == (77,)
    grey = Image.new("LA", (8, 8), (77, 255))
    grey.putpixel((0, 0), (77, 0))
    grey.save(tmp_path / "alpha.png")
    assert pixel(tmp_path / "alpha.png", "black") == (0, 0, 0)
    assert pixel(tmp_path / "alpha.png", at=(2, 2)) == (77, 77, 77)
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert pixel(tmp_path / "bits.png") == (255, 255, 255)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.bmp")
    assert pixel(tmp_path / "red.bmp", channels=1) == (76,)  # 0.299 of 255


def png(width, height, depth, colour, rows, *chunks):
    """A PNG file written by hand, for what Pillow cannot write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*c) for c in chunks)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.full((8, 8), 30000, dtype=">u2")
    values[0, :3] = 0, 65535, 300
    rows = [row.tobytes() for row in values]
    (tmp_path / "a.png").write_bytes(png(8, 8, 16, 0, rows))
    assert [pixel(tmp_path / "a.png", at=(0, k))[0] for k in range(4)] == [0, 255, 1, round(30000 / 257)]
    (tmp_path / "b.png").write_bytes(png(8, 8, 16, 0, rows, (b"tRNS", struct.pack(">H", 300))))
    assert [pixel(tmp_path / "b.png", at=(0, k))[0] for k in range(4)] == [0, 255, 255, round(30000 / 257)]
    colour = np.zeros((8, 8, 3), dtype=">u2")
    colour[..., 0], colour[..., 1] = 0xC8C8, 0x1414
    (tmp_path / "c.png").write_bytes(png(8, 8, 16, 2, [row.tobytes() for row in colour]))
    assert pixel(tmp_path / "c.png") == (0xC8, 0x14, 0)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: white on the right
    image.save(path := tmp_path / "a.jpg", exif=exif, quality=100)
    assert pixel(path, at=(1, 6))[0] > 250
    assert pixel(path, at=(6, 6))[0] > 250
    assert pixel(path, at=(1, 1))[0] < 5


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.bmp", "a.PNG", "a.jpeg"])
def test_every_format_and_odd_sizes(tmp_path, name):
    Image.new("RGB", (13, 7), (120, 120, 120)).save(path := tmp_path / name)
    assert all(abs(v - 120) <= 2 for v in pixel(path))


def test_resizing_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # picking single pixels would give 0 or 255
    Image.fromarray(board).save(path := tmp_path / "board.png")
    assert 100 < pixel(path, at=(4, 4))[0] < 155


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(path := tmp_path / "a.jpg", quality=100)
    assert pixel(path) == (255, 255, 255)


# --- a folder ------------------------------------------------------------------------------------


def test_rows_labels_and_splits(two):
    fill(two / "red" / "deeper" / "still", COLOURS["red"], 2, size=(5, 9), first=10)
    d = load(two)
    assert (d.task.names, d.shape, d.x.dtype) == (("blue", "red"), (3, 8, 8), torch.uint8)
    assert torch.bincount(d.y).tolist() == [10, 12]
    assert sum(d.counts().values()) == 22
    assert d.name == "folder images"
    assert d.notes == ()
    for row in range(22):
        red = int(d.y[row] == 1)
        assert d.x[row, 0, 0, 0] == 200 * red
        assert d.x[row, 2, 0, 0] == 200 * (1 - red)
    assert sorted(d.x[d.y == 1][:, 1, 0, 0].tolist()) == list(range(12))
    assert load(two, channels=1).shape == (1, 8, 8)
    assert load(two, flat=True).shape == (192,)
    assert load(two, size=16).fingerprint != d.fingerprint != load(two, background="black").fingerprint


def test_a_second_start_decodes_nothing(two, monkeypatch):
    fill(two / "red", COLOURS["red"], 1, first=90)
    (two / "red" / "090.png").write_bytes(b"")
    d = load(two)
    monkeypatch.setattr("limbeck.data.sources.folder.decode", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr("limbeck.data.prepare.measure", lambda *_: pytest.fail("measured again"))
    again = load(two)
    assert torch.equal(d.x, again.x)
    assert (again.fingerprint, again.notes) == (d.fingerprint, d.notes)
    assert torch.equal(d.inputs.std, again.inputs.std)
    assert "090.png (empty file)" in again.notes[0]
    with pytest.raises(UserError, match="1 files cannot be read"):
        load(two, strict=True)


@pytest.mark.parametrize("damage", [b"", b"[]", b"\x93NUMPY"])
@pytest.mark.parametrize("ending", ["json", "npy"])
def test_a_damaged_cache_is_made_again(two, monkeypatch, tmp_path, damage, ending):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "damaged"))
    d = load(two)
    for file in (tmp_path / "damaged").rglob(f"*.{ending}"):
        file.unlink()  # not cut short: the images above are still mapped from it
        file.write_bytes(damage)
    again = load(two)
    assert torch.equal(d.x, again.x)
    assert torch.equal(d.inputs.mean, again.inputs.mean)
    assert again.fingerprint == d.fingerprint


def test_names_that_are_no_utf8_can_be_shown_and_stored(two):
    try:
        (two / "red").rename(two / os.fsdecode(b"r\xe9d"))
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    (two / "blue" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    d = load(two)
    assert "r\ufffdd" in d.task.names
    "".join((*d.task.names, *d.notes)).encode()  # raises nothing
    assert "caf\ufffd.png (empty file)" in d.notes[0]


def test_a_changed_file_is_decoded_again(two):
    d = load(two)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file := two / "blue" / "000.png")
    os.utime(file, ns=(1, 1))
    again = load(two)
    assert again.fingerprint != d.fingerprint
    assert again.x[0, :, 0, 0].tolist() == [1, 2, 3]


def test_an_image_in_memory_never_changes_the_stored_file(two):
    d = load(two)
    before = d.x.clone()
    d.x.zero_()
    assert torch.equal(load(two).x, before)


def bomb():
    """60,000 x 60,000 black pixels in a few kB."""
    return png(60000, 60000, 1, 0, [b"\0" * 7500] * 3)


def large():
    """Beyond Pillow's first limit, where it only warns: 12,000 x 12,000."""
    return png(12000, 12000, 1, 0, [b"\0" * 1500] * 3)


def truncated():
    noise = np.random.default_rng(0).integers(0, 256, (8, 24), dtype=np.uint8)
    return png(8, 8, 8, 2, [row.tobytes() for row in noise])[:-60]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("zz.png", b"", "empty file"),
        ("zz.png", b"hello, I am text", "not a PNG, JPEG, WebP or BMP image"),
        ("zz.txt", b"hello, I am text", "not an image"),
        ("zz.png", truncated(), "runcated"),
        ("zz.png", bomb(), "decompression bomb"),
        ("zz.png", large(), "decompression bomb"),
        ("zz.jpg", b"GIF89a" + b"\0" * 40, "not a PNG"),
        ("zz.png", None, "No such file"),
    ],
    ids=["empty", "text", "other-suffix", "truncated", "bomb", "large", "gif", "dead-link"],
)
def test_unreadable_files_are_skipped_with_a_count_or_refused(two, name, content, why):
    if content is None:
        (two / "red" / name).symlink_to(two / "nowhere")
    else:
        (two / "red" / name).write_bytes(content)
    d = load(two)
    assert torch.bincount(d.y).tolist() == [10, 10]
    assert d.notes[0].startswith("skipped 1 files that cannot be read: red/zz")
    assert why in d.notes[0]
    with pytest.raises(UserError) as caught:
        load(two, strict=True)
    assert "1 files cannot be read" in str(caught.value)
    assert why in str(caught.value)


def test_what_is_skipped_leaves_rows_and_labels_in_step(two):
    for name in ("blue/000.png", "blue/005.png", "red/009.png"):
        (two / name).write_bytes(b"")
    d = load(two)
    assert len(d.x) == 17
    assert d.x[d.y == 0][:, 1, 0, 0].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert d.x[d.y == 1][:, 1, 0, 0].tolist() == list(range(9))


def test_hidden_files_and_loose_images(two):
    (two / ".git").mkdir()
    (two / "red" / ".DS_Store").write_bytes(b"?")
    (two / "README.txt").write_text("about")
    shutil.copy(two / "red" / "000.png", two / "loose.png")
    d = load(two, strict=True)
    assert d.notes == ("not used, because they stand outside the class folders: loose.png",)


def test_a_link_that_leads_back_is_followed_once(two):
    (two / "red" / "loop").symlink_to(two / "red", target_is_directory=True)
    assert len(load(two).x) == 20


def test_classes_by_number_and_by_name(two):
    fill(two / "green", (0, 0, 0), 4)
    (two / "nothing").mkdir()
    assert load(two, classes=2).task.names == ("blue", "red")
    assert load(two, classes=["red", "green"]).task.names == ("red", "green")
    with pytest.raises(UserError, match="did you mean 'green'"):
        load(two, classes=["red", "gren"])
    with pytest.raises(UserError, match="asks for 9, and 3 have images"):
        load(two, classes=9)
    with pytest.raises(UserError, match="twice"):
        load(two, classes=["red", "red"])
    with pytest.raises(UserError, match="class 'nothing' has no images"):
        load(two)


def test_a_limit_is_drawn_before_decoding(two):
    d = load(two, limit=10, split={"val": 0.3, "test": 0.3})
    assert torch.bincount(d.y).tolist() == [5, 5]
    assert d.notes == ("limited to 10 of 20 images",)
    assert len(d.x) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "there is no such folder"),
        (lambda p: p.write_text("x"), "is no folder"),
        (lambda p: p.mkdir(), "has no sub-folders"),
        (lambda p: (p / "red").mkdir(parents=True), "has no PNG, JPEG, WebP or BMP images"),
        (lambda p: fill(p / "red", COLOURS["red"], 5), "has only one class, 'red'"),
        (lambda p: (fill(p / "red", COLOURS["red"], 5), (p / "blue").mkdir()), "class 'blue' has no images"),
        (lambda p: (fill(p / "red", COLOURS["red"], 5), fill(p / "b", COLOURS["blue"], 2)), "'b' has only 2 rows"),
    ],
    ids=["absent", "file", "empty", "no-images", "one-class", "empty-class", "tiny-class"],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "images")
    assert message in str(caught.value)


def test_a_class_whose_images_are_all_unreadable(two):
    for file in (two / "red").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="class 'red' has no readable image"):
        load(two)


def test_a_cache_that_cannot_be_written(two, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="LIMBECK_CACHE"):
        load(two)


def test_a_full_disk_is_told_beforehand(two, monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"decoded images need \d+\.\d MB and \d+\.\d MB are free"):
        load(two)


# --- trees that are split already ----------------------------------------------------------------


def tree(root, parts):
    for part, (count, first) in parts.items():
        for name, colour in COLOURS.items():
            fill(root / part / name, colour, count, first=first)


def test_train_and_val_val_becomes_test(tmp_path):
    tree(tmp_path, {"train": (10, 0), "val": (5, 100)})
    d = load(tmp_path, split={"val": 0.2})
    assert d.counts() == {"train": 16, "val": 4, "test": 10}
    assert (d.x[d.test][:, 1, 0, 0] >= 100).all()
    assert (d.x[torch.cat([d.train, d.val])][:, 1, 0, 0] < 100).all()
    assert "no test folder: val is the test split" in d.notes[0]


def test_train_val_and_test_are_used_as_they_are(tmp_path):
    tree(tmp_path, {"train": (10, 0), "validation": (4, 50), "test": (5, 100)})
    d = load(tmp_path)
    assert d.counts() == {"train": 20, "val": 8, "test": 10}
    assert set(d.x[d.val][:, 1, 0, 0].tolist()) == {50, 51, 52, 53}
    assert set(d.x[d.test][:, 1, 0, 0].tolist()) == {100, 101, 102, 103, 104}
    assert d.notes == ("the folder's own split (train/val/test) is used",)
    again = load(tmp_path, split={"test": 0.25, "seed": 3})
    assert again.counts()["test"] == round(0.25 * 38)
    assert "set aside" in again.notes[0]
    limited = load(tmp_path, limit=19)
    assert limited.counts() == {"train": 10, "val": 4, "test": 5}


def test_train_and_test(tmp_path):
    tree(tmp_path, {"train": (10, 0), "test": (5, 100)})
    d = load(tmp_path, split={"val": 0.2})
    assert d.counts() == {"train": 16, "val": 4, "test": 10}
    assert d.notes == ("no val folder: validation rows are drawn from train",)


def test_a_class_in_test_only(tmp_path):
    tree(tmp_path, {"train": (10, 0), "test": (5, 100)})
    fill(tmp_path / "test" / "green", (0, 0, 0), 3)
    with pytest.raises(UserError, match="class 'green' has only 0 rows"):
        load(tmp_path)


def test_classes_called_train_and_test_alone_are_parts_but_not_with_others(two):
    (two / "red").rename(two / "train")
    assert load(two).task.names == ("blue", "train")


# --- groups --------------------------------------------------------------------------------------


def sprites(root):
    """Animation frames: three near-duplicates of each of six units a class."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for unit in range(6):
            for frame, end in enumerate(("", "-attack-1", "+female2")):
                image = Image.new("RGB", (8, 8), (colour[0], unit * 10 + frame, colour[2]))
                image.save(root / name / f"{'abcdef'[unit]}1{end}.png")
    return root


@pytest.mark.parametrize("group", ["stem", "^([^/]+)/([a-f])", "^[^/]+/[a-f]"])
def test_groups_keep_near_duplicates_on_one_side(tmp_path, group):
    d = load(sprites(tmp_path / "units"), split={"group": group, "val": 0.25, "test": 0.25})
    unit = d.y * 1000 + d.x[:, 1, 0, 0].long() // 10
    sides = [set(unit[rows].tolist()) for rows in (d.train, d.val, d.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12
    assert "12 groups stay whole" in d.notes[0]


def test_group_expressions_that_do_not_work(tmp_path):
    root = sprites(tmp_path / "units")
    with pytest.raises(UserError, match="finds nothing in 'blue/a1"):
        load(root, split={"group": "nothing-like-it"})
    with pytest.raises(UserError, match="no regular expression"):
        load(root, split={"group": "("})


def test_groups_that_stand_on_both_sides_of_a_given_split_are_told(tmp_path):
    for part, name in (("train", "a1.png"), ("train", "b1.png"), ("test", "a2.png"), ("test", "c1.png")):
        for label, colour in COLOURS.items():
            (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / part / label / name)
    d = load(tmp_path, split={"group": "stem"})
    assert "the test split that came with the data shares 2 groups with the other splits" in d.notes


# --- real sprites --------------------------------------------------------------------------------


def test_the_real_sprites():
    need(UNITS is not None, "Wesnoth's unit sprites (Debian package wesnoth-1.16-data)")
    largest = sorted((sum(1 for _ in c.rglob("*.png")), c.name) for c in UNITS.iterdir() if c.is_dir())[-12:]
    d = load(UNITS, classes=12, limit=600, split={"group": "stem"})
    assert d.task.names == tuple(sorted(name for _, name in largest))
    assert sum(count for count, _ in largest) == 5112
    assert "limited to 600 of 5112 images" in d.notes
    assert torch.bincount(d.y).sum() == 600
    corners = data.pixels(d, torch.arange(600))[:, :, 0, 0]
    assert (corners > 0.9).all(1).float().mean() > 0.95  # sprites stand on a clear ground


def test_all_the_real_sprites_in_groups():
    need(UNITS is not None, "Wesnoth's unit sprites (Debian package wesnoth-1.16-data)")
    d = load(UNITS, classes=12, size=16, split={"group": "stem"})
    assert len(d.x) == 5112
    assert any("216 groups stay whole" in note for note in d.notes)
    assert abs(len(d.test) / 5112 - 0.2) < 0.03
    assert (torch.bincount(d.y[d.test], minlength=12) > 0).all()
