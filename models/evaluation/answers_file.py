"""A suspect's answers as a CSV file: which image, and what was said of it.

Knows the file; knows no model. The first line names the columns. The first column is `image`: the number of the image
in the split, from 0, or the SHA-256 (hexadecimal) of its pixels uint8 [H, W, 3]. Then comes either one column for each
class, in any order, with its probability; or the one column `label`, with the name of the top-1 or its number.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.data import DataError, pixels_of

IMAGE, LABEL = "image", "label"
HASH = 64  # hexadecimal digits
FARTHEST = 0.25  # of a sum of probabilities from 1: answers may have been rounded
MOST_LINES = 10_000_000
Answers: TypeAlias = NDArray[np.float32] | NDArray[np.int64]


class AnswersError(DataError):
    """The file cannot be read as answers about these images; the message says which line and why."""


@dataclass(frozen=True)
class Told:
    """Of which images, int64 [M], and what: probabilities float32 [M, K], or the top-1 int64 [M]."""

    places: NDArray[np.int64]
    answers: Answers


def read(path: Path, classes: Sequence[str], images: Tensor) -> Told:
    """The answers in a file about some of the images uint8 [N, 3, H, W].

    Raises:
        AnswersError: it is no such file, names another image or class, an image twice, or no probabilities.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path.name, csv.reader(file, strict=True), classes, images)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnswersError(f"{path} cannot be read: {error}") from error


def _read(name: str, lines: Iterator[list[str]], classes: Sequence[str], images: Tensor) -> Told:
    header = [column.strip() for column in next(lines, [])]
    columns = _columns(name, header, classes)
    hashes: dict[str, int] = {}
    places: dict[int, int] = {}
    answers: list[list[float]] = []
    for number, line in enumerate(lines, start=2):
        where = f"{name}, line {number}"
        if not line:
            continue
        if len(line) != len(header):
            raise AnswersError(f"{where}: {len(line)} values in {len(header)} columns")
        if number > MOST_LINES:
            raise AnswersError(f"{name} has more than {MOST_LINES:,} lines")
        if len(line[0].strip()) == HASH and not hashes:
            hashes = _hashes(images)
        place = _place(where, line[0].strip().lower(), hashes, len(images))
        if place in places:
            raise AnswersError(f"{where}: image {line[0].strip()} was there in line {places[place]}")
        places[place] = number
        answers.append(_top1(where, line[1], classes) if columns is None else _probabilities(where, line, columns))
    if not answers:
        raise AnswersError(f"{name} holds no answer")
    found = np.array(list(places), dtype=np.int64)
    values = np.array(answers, dtype=np.float32)
    return Told(found, values[:, 0].astype(np.int64) if columns is None else values)


def _columns(name: str, header: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """Where the probability of each class is; None if there is a label instead."""
    if list(header) == [IMAGE, LABEL]:
        return None
    if header[:1] != [IMAGE] or sorted(header[1:]) != sorted(classes):
        wanted = f"{IMAGE!r} and {LABEL!r}, or {IMAGE!r} and each of the {len(classes)} classes"
        missing = "".join(f"; there is no {label!r}" for label in sorted(set(classes) - set(header))[:1])
        raise AnswersError(f"{name}, line 1: the columns are {wanted}{missing}")
    return [header.index(label, 1) for label in classes]


def _hashes(images: Tensor) -> dict[str, int]:
    """Where an image is by its SHA-256; of equal ones the first."""
    pixels = reversed(list(enumerate(pixels_of(images))))
    return {hashlib.sha256(image.data).hexdigest(): place for place, image in pixels}


def _place(where: str, text: str, hashes: dict[str, int], count: int) -> int:
    if text in hashes:
        return hashes[text]
    number = _number(text)
    if number is not None and number < count:
        return number
    raise AnswersError(f"{where}: {text[:HASH]!r} is neither below {count} nor the SHA-256 of an image of the data")


def _top1(where: str, text: str, classes: Sequence[str]) -> list[float]:
    label = text.strip()
    if label in classes:
        return [classes.index(label)]
    number = _number(label)
    if number is not None and number < len(classes):
        return [number]
    raise AnswersError(f"{where}: {label[:HASH]!r} is no class of the model")


def _number(text: str) -> int | None:
    """The number that a few digits are."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _probabilities(where: str, line: Sequence[str], columns: Sequence[int]) -> list[float]:
    try:
        values = [float(line[column]) for column in columns]
    except ValueError:
        raise AnswersError(f"{where}: not all values are numbers") from None
    total = sum(values)
    if not all(0 <= value <= 1 + FARTHEST for value in values) or not abs(total - 1) <= FARTHEST:
        raise AnswersError(f"{where}: these are no probabilities: their sum is {total:g}")
    return [value / total for value in values]
