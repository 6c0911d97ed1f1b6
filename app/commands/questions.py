"""What suspects are asked: some images of a split, in whatever size they want them; and who has answered before."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from app.commands.progress import bar
from models.attacks.oracle import TierOracle
from models.data import Pixels, load, pixels_of
from models.evaluation import answers_file
from models.evaluation.answers_file import Answers, Told
from models.evaluation.suspects import Suspect, asked
from models.predictor import Predictor
from models.tracing.waves import Floats

Split = Literal["train", "test"]


class Questions:
    """Images for our model `own`; which of them is said by `choose` or by `of_file`, once."""

    def __init__(self, own: Predictor, data: Path, split: Split) -> None:
        self._own, self._data, self._split = own, data, split
        self._size = (own.manifest.input.height, own.manifest.input.width)
        self._every = load(data, split, *self._size).images
        self._places = torch.arange(len(self._every))

    def choose(self, count: int, seed: int) -> None:
        """Ask at most so many of them, at random."""
        order = torch.randperm(len(self._every), generator=torch.Generator().manual_seed(seed))
        self._places = order[:count]

    def of_file(self, file: Path) -> Answers:
        """Ask those that a file of answers is about; the answers in it."""
        told = self._told(file)
        self._places = torch.from_numpy(told.places)
        return told.answers

    def looked_up(self, file: Path) -> Answers:
        """The answers in a file that must be about these images, and may be about others.

        Raises:
            AnswersError: it leaves some out.
        """
        told = self._told(file)
        rows = {place: row for row, place in enumerate(told.places.tolist())}
        try:
            return told.answers[[rows[place] for place in self._places.tolist()]]
        except KeyError as error:
            raise answers_file.AnswersError(f"{file.name} says nothing of image {error.args[0]}") from None

    def _told(self, file: Path) -> Told:
        return answers_file.read(file, self._own.manifest.classes, self._every)

    def asked_of(self, suspect: Suspect, *, top1: bool) -> Answers:
        """What a suspect answers, with a progress bar."""
        images = self._images
        if suspect.size != self._size:
            images = load(self._data, self._split, *suspect.size).images[self._places]
        with bar(f"asking {suspect.name}", len(images), passing=True) as told:
            return suspect.answers(images, told, top1=top1)

    def clean(self) -> Floats:
        """What our model says of them, unmarked: logits float32 [N, K]."""
        with bar("asking our model", len(self._places), passing=True) as told:
            found: Floats = asked(TierOracle(self._own, keyed=True).query, self._images, told).numpy()
        return found

    @property
    def _images(self) -> Tensor:
        return self._every[self._places]

    @property
    def pixels(self) -> Pixels:
        """The images, uint8 [N, H, W, 3]."""
        return pixels_of(self._images)
