"""Laws of the data sets: two layouts, one result; clear words for what is missing."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.data import DataError, check_classes, check_same_classes, fit, load
from tests.conftest import encode, smooth_images

PIXELS = smooth_images(6).permute(0, 2, 3, 1).numpy()


def write_parquet(file: Path, names: list[str] | None, labels: list[int]) -> None:
    table = pa.table({"image": [encode(pixels) for pixels in PIXELS], "label": pa.array(labels, pa.int32())})
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(names)} if names else None), file)


def write_folder(root: Path, names: list[str], labels: list[int]) -> None:
    for number, label in enumerate(labels):
        (root / names[label]).mkdir(parents=True, exist_ok=True)
        (root / names[label] / f"{number}.png").write_bytes(encode(PIXELS[number]))


def test_folder_and_parquet_give_the_same_images(tmp_path: Path) -> None:
    names, labels = ["cat", "dog"], [0, 0, 0, 1, 1, 1]
    write_parquet(tmp_path / "pets_train.parquet", names, labels)
    write_folder(tmp_path / "pets" / "train", names, labels)
    parquet = load(tmp_path / "pets", "train", 32, 32)
    (tmp_path / "pets_train.parquet").unlink()
    folder = load(tmp_path / "pets", "train", 32, 32)
    assert parquet.classes == folder.classes == ("cat", "dog")
    assert torch.equal(parquet.labels, folder.labels)
    assert torch.equal(parquet.images, folder.images)
    assert torch.equal(parquet.images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


def test_a_validation_folder_stands_in_for_a_test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "val", ["a", "b"], [0, 1, 0, 1, 0, 1])
    assert len(load(tmp_path, "test", 16, 16)) == 6


def test_parquet_without_names_numbers_its_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", None, [0, 1, 2, 0, 1, 2])
    assert load(tmp_path, "test", 8, 8).classes == ("0", "1", "2")


def test_a_label_outside_the_classes_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["only"], [0, 0, 1, 0, 0, 0])
    with pytest.raises(DataError, match="outside its 1 classes"):
        load(tmp_path, "train", 32, 32)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ["a"], [0, 0])
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="train image 1"):
        load(tmp_path, "train", 32, 32)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train split"):
        load(tmp_path / "nowhere", "train", 32, 32)


def test_a_split_is_a_partition_that_its_seed_repeats(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ["a", "b"], [0, 1, 0, 1, 0, 1])
    images = load(tmp_path, "train", 32, 32)
    rest, held_out = images.split(2, seed=1)
    both = torch.cat([rest.images, held_out.images]).flatten(1).tolist()
    assert sorted(both) == sorted(images.images.flatten(1).tolist())
    assert torch.equal(images.split(2, seed=1)[1].images, held_out.images)
    with pytest.raises(DataError):
        images.split(6, seed=1)


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (40, 100), (7, 5), (1, 100_000), (100_000, 1)])
def test_any_size_fits(size: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size, (10, 20, 30)), 32, 24).shape == (32, 24, 3)


@pytest.mark.parametrize("side", [224, 299])
def test_every_size_fits(side: int) -> None:
    """Rounding must not put the cut outside the picture, whatever the sizes."""
    for width in range(1, 700, 3):
        for height in (1, width, 309, 1000):
            assert fit(Image.new("RGB", (width, height)), side, side).shape == (side, side, 3)


def test_splits_that_number_other_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ["a", "b"], [0, 1, 0, 1, 0, 1])
    write_folder(tmp_path / "test", ["a", "b"], [0, 1, 0, 1, 0, 1])
    (tmp_path / "test" / ".hidden").mkdir()
    check_classes(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(DataError, match="differ in their classes: b, c"):
        check_classes(tmp_path)


@pytest.mark.parametrize(
    ("found", "told"),
    [(("a", "c"), r"missing: b; unknown: c"), (("a",), "missing: b"), (("b", "a"), "another order")],
)
def test_classes_that_are_not_the_models_are_named(tmp_path: Path, found: tuple[str, ...], told: str) -> None:
    check_same_classes(tmp_path, ("a", "b"), ["a", "b"])
    with pytest.raises(DataError, match=rf"than the model \({told}\)$"):
        check_same_classes(tmp_path, found, ["a", "b"])


def test_fitting_takes_the_centre() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (fit(Image.fromarray(pixels), 10, 10) == 255).all()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    assert np.array_equal(fit(Image.fromarray(PIXELS[0]), 32, 32), PIXELS[0])


def test_parquet_that_is_damaged_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set_train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "set", "train", 32, 32)
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "set_train.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "set", "train", 32, 32)


@pytest.mark.parametrize(
    ("images", "labels", "names", "said"),
    [
        ([{"bytes": b"x", "path": "a.png"}], [0], None, "encoded images as bytes"),
        ([None], [0], None, "in every row"),
        ([b"x"], [None], None, "in every row"),
        ([b"x"], ["cat"], None, "`label` integers"),
        ([b"x"], [0.0], None, "`label` integers"),
        ([b"x"], [0], "{", "no JSON list"),
        ([b"x"], [0], "1", "no JSON list"),
    ],
)
def test_parquet_of_other_types_is_refused_in_words(
    tmp_path: Path, images: list[object], labels: list[object], names: str | None, said: str
) -> None:
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table.replace_schema_metadata({"class_names": names} if names else None), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=said):
        load(tmp_path, "train", 32, 32)


def test_a_share_of_the_images_has_as_much_of_every_class_and_its_seed_repeats_it(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "train" / ("a" if number < 30 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")

    def chosen(share: float, seed: int) -> list[int]:
        found = load(tmp_path, "train", 8, 8, share=share, seed=seed)
        assert found.labels.bincount(minlength=2).tolist() == [round(30 * share), max(1, round(10 * share))]
        return found.images[:, 0, 0, 0].tolist()

    first = chosen(0.2, 0)
    assert first == chosen(0.2, 0)
    assert first != chosen(0.2, 1)
    assert len(chosen(0.04, 0)) == 2, "no class is left out"
    assert chosen(1.0, 0) == list(range(40))
