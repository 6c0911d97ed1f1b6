"""A file of answers is read as it is meant, or refused with the line that makes no sense."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from models.evaluation.answers_file import AnswersError, Told, read
from tests.conftest import smooth_images

CLASSES = ("cat", "dog", "7")
IMAGES = smooth_images(5, 8, seed=1)
HASHES = [hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest() for image in IMAGES]


def told(tmp_path: Path, *lines: object, text: str = "") -> Told:
    """What is read of a file of these lines."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(line if isinstance(line, list | tuple) else [line] for line in lines)
    path = tmp_path / "answers.csv"
    path.write_bytes(text.encode() or buffer.getvalue().encode())
    return read(path, CLASSES, IMAGES)


def test_columns_may_come_in_any_order_and_images_by_number_or_hash(tmp_path: Path) -> None:
    found = told(tmp_path, ["image", "dog", "7", "cat"], [4, 0.2, 0.1, 0.7], [HASHES[1].upper(), 1, 0, 0])
    assert found.places.tolist() == [4, 1]
    assert found.answers.dtype == np.float32
    assert np.allclose(found.answers, np.array([[0.7, 0.2, 0.1], [0, 1, 0]]))


def test_labels_are_names_or_numbers_and_a_name_comes_first(tmp_path: Path) -> None:
    found = told(tmp_path, ["image", "label"], [0, "dog"], [1, "2"], [2, "7"], [3, " cat "])
    assert found.answers.dtype == np.int64
    assert found.answers.tolist() == [1, 2, 2, 0]


def test_rounded_probabilities_are_made_to_sum_to_one(tmp_path: Path) -> None:
    found = told(tmp_path, ["image", *CLASSES], [0, 0.3, 0.3, 0.3])
    assert np.allclose(found.answers, 1 / 3)


def test_empty_lines_a_byte_order_mark_and_windows_ends_are_no_mistakes(tmp_path: Path) -> None:
    found = told(tmp_path, text="\ufeffimage,label\r\n0,dog\r\n\r\n2,cat\r\n")
    assert (found.places.tolist(), found.answers.tolist()) == ([0, 2], [1, 0])


def test_of_equal_images_a_hash_means_the_first(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text(f"image,label\n{HASHES[0]},dog\n")
    twice = torch.cat([IMAGES, IMAGES])
    assert read(tmp_path / "answers.csv", CLASSES, twice).places.tolist() == [0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1: the columns"),
        (["image"], "there is no '7'"),
        ([["image", "cat", "dog"]], "there is no '7'"),
        ([["image", *CLASSES, "more"]], "line 1: the columns"),
        ([["image", "cat", "cat", "dog"]], "there is no '7'"),
        ([["picture", "label"]], "line 1: the columns"),
        ([["image", "label"]], "no answer"),
        ([["image", "label"], [0, "cat"], [0, "dog"]], "line 3: image 0 was there in line 2"),
        ([["image", "label"], [0, "cat"], [HASHES[0], "dog"]], "was there in line 2"),
        ([["image", "label"], [5, "cat"]], "line 2: '5' is neither below 5"),
        ([["image", "label"], [-1, "cat"]], "'-1' is neither"),
        ([["image", "label"], ["0" * 64, "cat"]], "nor the SHA-256"),
        ([["image", "label"], ["٣", "cat"]], "neither"),
        ([["image", "label"], [0, "bird"]], "'bird' is no class"),
        ([["image", "label"], [0, "3"]], "'3' is no class"),
        ([["image", "label"], [0, "1" * 5000]], "is no class"),
        ([["image", "label"], ["1" * 5000, "cat"]], "neither"),
        ([["image", "label"], [0]], "line 2: 1 values in 2 columns"),
        ([["image", "label"], [0, "cat", "dog"]], "3 values in 2 columns"),
        ([["image", *CLASSES], [0, 0.5, 0.5, "x"]], "line 2: not all values are numbers"),
        ([["image", *CLASSES], [0, "nan", 0.5, 0.5]], "no probabilities"),
        ([["image", *CLASSES], [0, "inf", 0, 0]], "no probabilities"),
        ([["image", *CLASSES], [0, "inf", "-inf", 0]], "no probabilities"),
        ([["image", *CLASSES], [0, 1e308, 1e308, 0]], "no probabilities"),
        ([["image", *CLASSES], [0, -0.5, 1, 0.5]], "no probabilities"),
        ([["image", *CLASSES], [0, 70, 20, 10]], "their sum is 100"),
        ([["image", *CLASSES], [0, 0, 0, 0]], "their sum is 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, lines: list[object], said: str) -> None:
    with pytest.raises(AnswersError, match=said):
        told(tmp_path, *lines)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'image,label\n0,"cat', b"image,label\n0,cat\0\n"], ids=str)
def test_what_is_no_csv_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.csv"
    path.write_bytes(content)
    with pytest.raises(AnswersError, match=r"strange\.csv"):
        read(path, CLASSES, IMAGES)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match="cannot be read"):
        read(tmp_path / "none.csv", CLASSES, IMAGES)
