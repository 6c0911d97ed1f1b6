"""Laws of soft labels, with a real server: they are the model's, and no image is paid for twice."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sdb_client.errors import APIError, InvalidImage
from sdb_client.soft_labels import (
    BudgetSpent,
    DamagedCache,
    NoSoftLabels,
    NotFetched,
    OtherCache,
    SoftLabels,
    SoftLabelStream,
)
from sdb_client.soft_labels.journal import Journal
from sdb_client.soft_labels.labelled import Sample
from torch.utils.data import DataLoader, TensorDataset

from models.data import load
from tests.client.partners import Item, Partner, Passing, partner, pictures
from tests.conftest import CLASSES, Server, serving

PICTURES = pictures(40)
Hire = Callable[..., Partner]


@pytest.fixture
def hire(server: Server) -> Iterator[Hire]:
    """Makes partners with keys of their own."""
    with ExitStack() as stack:
        yield lambda *limit, **grant: stack.enter_context(partner(server, *limit, **grant))


@pytest.fixture
def holder(hire: Hire) -> Partner:
    return hire()


def soft(holder: Partner, cache: Path, items: list[Item] = PICTURES, **options: object) -> SoftLabels:
    """A data set with small batches, not fetched."""
    given = {"model": "tiny", "cache": cache, "batch_size": 8, **options}
    return SoftLabels(items, holder.client, **given)  # type: ignore[arg-type]


def fetched(holder: Partner, cache: Path, items: list[Item] = PICTURES, **options: object) -> SoftLabels:
    labels = soft(holder, cache, items, **options)
    labels.fetch()
    return labels


def everything(labels: SoftLabels) -> list[Sample]:
    return [labels[number] for number in range(len(labels))]


def logits(labels: SoftLabels | SoftLabelStream) -> torch.Tensor:
    items = everything(labels) if isinstance(labels, SoftLabels) else labels
    return torch.stack([label for _, _, label in items])


def test_a_soft_label_is_what_the_model_says_of_the_image(holder: Partner, tmp_path: Path) -> None:
    labels = fetched(holder, tmp_path)
    said = holder.client.predict([image for image, _ in PICTURES], "tiny")
    expected = torch.tensor([prediction.logits for prediction in said.predictions])
    torch.testing.assert_close(logits(labels), expected, rtol=1e-4, atol=1e-4)
    image, label, _ = labels[7]
    assert image is PICTURES[7][0]
    assert label == PICTURES[7][1]


def test_no_image_is_paid_for_twice(holder: Partner, tmp_path: Path) -> None:
    first = fetched(holder, tmp_path)
    first.fetch()
    half = fetched(holder, tmp_path, PICTURES[20:] + pictures(5, seed=1))
    assert holder.charged == 45
    assert torch.equal(logits(half)[:20], logits(first)[20:])
    assert half.verify() == 45


def test_an_image_that_is_there_twice_is_paid_for_once(holder: Partner, tmp_path: Path) -> None:
    labels = soft(holder, tmp_path, [*PICTURES[:10], *PICTURES[5:15], PICTURES[0]])
    estimate = labels.estimate()
    assert (estimate.images, estimate.duplicates, estimate.cached, estimate.cost) == (21, 6, 0, 15)
    labels.fetch()
    assert holder.charged == 15
    assert torch.equal(labels[5][2], labels[10][2])


def test_the_estimate_is_what_is_charged(hire: Hire, tmp_path: Path) -> None:
    holder = hire(30)
    fetched(holder, tmp_path, PICTURES[:10])
    estimate = soft(holder, tmp_path).estimate()
    assert (estimate.images, estimate.cached, estimate.cost, estimate.remaining) == (40, 10, 30, 20)
    assert not estimate.enough
    assert holder.charged == 10, "an estimate costs nothing"
    assert str(estimate).endswith("costs 30, the key has 20: not enough")


def test_kinds_of_images_are_one_image(holder: Partner, tmp_path: Path) -> None:
    fetched(holder, tmp_path, PICTURES[:3])
    kinds = [
        (Image.fromarray(PICTURES[0][0]), 0),
        (torch.from_numpy(PICTURES[1][0]).permute(2, 0, 1), 0),
        (torch.from_numpy(PICTURES[2][0]).permute(2, 0, 1) / 255, 0),
    ]
    labels = soft(holder, tmp_path, kinds)  # type: ignore[arg-type]
    assert labels.estimate().cost == 0


def test_a_data_set_of_tensors_is_read_by_whole_batches(holder: Partner, tmp_path: Path) -> None:
    pixels = torch.from_numpy(np.stack([image for image, _ in PICTURES])).permute(0, 3, 1, 2).contiguous()
    tensors = TensorDataset(pixels, torch.tensor([label for _, label in PICTURES]))
    labels = fetched(holder, tmp_path, tensors)  # type: ignore[arg-type]
    images, numbers, soft_labels = next(iter(DataLoader(labels, batch_size=40)))
    assert torch.equal(images, pixels)
    assert torch.equal(numbers, tensors.tensors[1])
    assert torch.equal(soft_labels, logits(fetched(holder, tmp_path)))


def test_normalised_images_are_refused_before_anything_is_paid(holder: Partner, tmp_path: Path) -> None:
    normalised = [(torch.randn(3, 32, 32), 0)]
    with pytest.raises(InvalidImage, match="transform"):
        soft(holder, tmp_path, normalised).fetch()  # type: ignore[arg-type]
    assert holder.charged == 0


def test_large_images_are_labelled_as_the_server_would_fit_them(holder: Partner, tmp_path: Path) -> None:
    large = pictures(4, side=72)
    labels = fetched(holder, tmp_path, large)
    said = holder.client.predict([image for image, _ in large], "tiny")
    expected = torch.tensor([prediction.logits for prediction in said.predictions])
    torch.testing.assert_close(logits(labels), expected, rtol=1e-4, atol=1e-4)
    assert labels[0][0].shape == (72, 72, 3), "the student has its own size"


def test_views_are_the_servers_views_and_the_student_sees_what_was_labelled(holder: Partner, tmp_path: Path) -> None:
    labels = fetched(holder, tmp_path, PICTURES[:6], views=3)
    assert len(labels) == 18
    (said,) = holder.client.predict(PICTURES[4][0], "tiny", views=3).predictions
    assert said.views is not None
    for number, view in enumerate(said.views):
        shown, label, label_of_view = labels[4 * 3 + number]
        assert label == PICTURES[4][1]
        torch.testing.assert_close(label_of_view, torch.tensor(view.logits), rtol=1e-4, atol=1e-4)
        own = holder.client.predict(shown, "tiny").predictions[0].logits
        torch.testing.assert_close(label_of_view, torch.tensor(own), rtol=1e-4, atol=1e-4)


def test_more_views_are_paid_for_beside_those_that_are_there(holder: Partner, tmp_path: Path) -> None:
    fetched(holder, tmp_path, views=2)
    before = holder.charged
    assert soft(holder, tmp_path).estimate().cost == 0
    cost = soft(holder, tmp_path, views=4).estimate().cost
    fetched(holder, tmp_path, views=4)
    assert 0 < cost <= 80
    assert holder.charged == before + cost


def test_every_temperature_is_made_of_the_labels_that_are_there(holder: Partner, tmp_path: Path) -> None:
    raw = logits(fetched(holder, tmp_path))
    warm = fetched(holder, tmp_path, temperature=3.0)
    (said,) = holder.client.predict(PICTURES[0][0], "tiny", temperature=3.0).predictions
    torch.testing.assert_close(warm[0][2], torch.tensor(said.probabilities), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits(warm), (raw / 3).softmax(1))
    assert holder.charged == 41


@pytest.mark.parametrize(("store", "temperature", "tolerance"), [("float16", None, 2e-2), ("top4", 4.0, 5e-2)])
def test_smaller_labels_are_nearly_the_exact_ones(
    holder: Partner, tmp_path: Path, store: str, temperature: float | None, tolerance: float
) -> None:
    exact = logits(fetched(holder, tmp_path / "exact", temperature=temperature))
    small = logits(fetched(holder, tmp_path / "small", temperature=temperature, store=store))
    torch.testing.assert_close(small, exact, rtol=tolerance, atol=tolerance)
    assert torch.equal(small.argmax(1), exact.argmax(1))


def test_a_cache_is_of_one_form(holder: Partner, tmp_path: Path) -> None:
    fetched(holder, tmp_path)
    with pytest.raises(OtherCache, match="float32"):
        soft(holder, tmp_path, store="float16")


def test_another_version_has_labels_of_its_own(holder: Partner, tmp_path: Path, zoo: Path) -> None:
    fetched(holder, tmp_path / "cache")
    manifest = (zoo / "tiny" / "bundle.json").read_text()
    assert '"version": "1"' in manifest
    for file in (zoo / "tiny").iterdir():
        (tmp_path / "zoo" / "tiny").mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / "tiny" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "zoo" / "tiny" / "bundle.json").write_text(manifest.replace('"version": "1"', '"version": "2"'))
    (tmp_path / "zoo" / "tiny" / "demo.key").chmod(0o600)
    with serving(tmp_path / "var", tmp_path / "zoo") as newer, partner(newer) as other:
        assert soft(other, tmp_path / "cache").estimate().cost == 40
        fetched(other, tmp_path / "cache")
        assert other.charged == 40
    assert soft(holder, tmp_path / "cache").estimate().cost == 0, "those of the first version are still there"


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_what_was_fetched(holder: Partner, tmp_path: Path, start: str, workers: int) -> None:
    labels = fetched(holder, tmp_path, views=2)
    alone = list(DataLoader(labels, batch_size=7))
    shared = list(DataLoader(labels, batch_size=7, num_workers=workers, multiprocessing_context=start))
    for (images, numbers, soft_labels), (same_images, same_numbers, same_soft) in zip(alone, shared, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(numbers, same_numbers)
        assert torch.equal(soft_labels, same_soft)


def test_a_worker_cannot_spend_the_budget(holder: Partner, tmp_path: Path) -> None:
    sent = bytes(ForkingPickler.dumps(fetched(holder, tmp_path)))
    copy = ForkingPickler.loads(sent)
    with pytest.raises(NotFetched, match="before its workers start"):
        copy.fetch()
    assert holder.key["api_key"].encode() not in sent


def test_nothing_is_there_before_it_is_fetched(holder: Partner, tmp_path: Path) -> None:
    with pytest.raises(NotFetched, match="fetch"):
        soft(holder, tmp_path)[0]
    with pytest.raises(NotFetched, match="fetch"):
        iter(SoftLabelStream(Passing(PICTURES), holder.client, model="tiny", cache=tmp_path)).__next__()


def test_a_spent_budget_is_spent_to_the_last_answer_and_gone_on_with_after_a_top_up(hire: Hire, tmp_path: Path) -> None:
    holder = hire(27)
    labels = soft(holder, tmp_path)
    with pytest.raises(BudgetSpent) as spent:
        labels.fetch()
    assert (spent.value.labelled, spent.value.total) == (27, 40)
    assert (len(labels), holder.remaining) == (27, 0)
    assert [label for _, label, _ in everything(labels)] == [label for _, label in PICTURES[:27]]
    holder.top_up(5)
    with pytest.raises(BudgetSpent):
        labels.fetch()
    holder.top_up(100)
    labels.fetch()
    assert (len(labels), holder.charged, holder.remaining) == (40, 40, 92)


def test_somebody_else_may_spend_the_same_budget(hire: Hire, tmp_path: Path) -> None:
    """The key had enough when it was asked; the refusal comes in the middle."""
    holder = hire(40)
    labels = soft(holder, tmp_path, concurrency=1)
    spender = holder.client

    class Spending(list[Item]):
        def __getitem__(self, number: Any) -> Any:  # noqa: ANN401
            if number == 20:
                spender.predict([image for image, _ in pictures(10, seed=3)], "tiny")
            return super().__getitem__(number)

    labels.estimate()
    labels._base = Spending(PICTURES)
    with pytest.raises(BudgetSpent) as spent:
        labels.fetch()
    assert spent.value.labelled == len(labels) == 24, "whole batches that the rest could pay for"
    with pytest.raises(BudgetSpent):
        labels.fetch()
    assert (len(labels), holder.charged, holder.remaining) == (30, 40, 0)


def test_a_batch_left_over_that_nobody_can_pay_for_stops_no_fetch(hire: Hire, tmp_path: Path) -> None:
    """Its request was never answered; the budget has become less since."""
    labels = soft(hire(5), tmp_path)
    (batches,) = tmp_path.rglob("batches")
    Journal(batches).begin(np.stack([image for image, _ in PICTURES[:8]]))
    with pytest.raises(BudgetSpent):
        labels.fetch()
    assert len(labels) == 5
    assert not list(batches.iterdir())


def test_a_rate_limit_is_waited_for(hire: Hire, tmp_path: Path) -> None:
    holder = hire(rate_limits=[{"name": "burst", "limit": 16, "window_s": 2}])
    assert len(fetched(holder, tmp_path, PICTURES[:24])) == 24
    assert holder.charged == 24


def test_who_may_not_distil_is_told_so_at_once(hire: Hire, tmp_path: Path) -> None:
    with pytest.raises(NoSoftLabels, match="distill"):
        soft(hire(scopes=["predict"]), tmp_path)


def test_a_batch_that_is_refused_for_good_is_not_tried_for_ever(holder: Partner, tmp_path: Path) -> None:
    with pytest.raises(APIError) as refused:
        fetched(holder, tmp_path, pictures(300), batch_size=300)
    assert refused.value.status in {400, 413}
    assert len(fetched(holder, tmp_path, pictures(300), batch_size=100)) == 300
    assert holder.charged == 300


def test_two_who_fetch_at_once_pay_once(holder: Partner, tmp_path: Path) -> None:
    both = [soft(holder, tmp_path) for _ in range(2)]
    threads = [threading.Thread(target=labels.fetch) for labels in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert holder.charged == 40
    assert torch.equal(logits(both[0]), logits(both[1]))


def test_a_record_that_was_changed_is_found(holder: Partner, tmp_path: Path) -> None:
    labels = fetched(holder, tmp_path)
    assert labels.verify() == 40
    (file,) = tmp_path.rglob("labels.bin")
    changed = bytearray(file.read_bytes())
    changed[100] ^= 1
    file.write_bytes(changed)
    with pytest.raises(DamagedCache) as damaged:
        labels.verify()
    assert len(damaged.value.keys) == 1


def test_the_students_transform_changes_neither_the_label_nor_the_price(holder: Partner, tmp_path: Path) -> None:
    plain = fetched(holder, tmp_path)
    mirrored = fetched(holder, tmp_path, transform=lambda image: image[:, ::-1])
    assert holder.charged == 40
    assert np.array_equal(mirrored[3][0], PICTURES[3][0][:, ::-1])
    assert torch.equal(logits(plain), logits(mirrored))


def test_images_that_stream_by_have_the_same_labels(holder: Partner, tmp_path: Path) -> None:
    stream = SoftLabelStream(Passing(PICTURES), holder.client, model="tiny", cache=tmp_path, views=2)
    stream.fetch()
    numbered = fetched(holder, tmp_path, views=2)
    assert holder.charged == numbered.estimate().cached
    assert torch.equal(logits(stream), logits(numbered))
    for (image, label, _), (same, same_label, _) in zip(stream, everything(numbered), strict=True):
        assert np.array_equal(image, same)
        assert label == same_label
    with pytest.raises(TypeError, match="SoftLabelStream"):
        SoftLabels(Passing(PICTURES), holder.client, model="tiny", cache=tmp_path)


def test_a_stream_leaves_out_what_has_no_label(hire: Hire, tmp_path: Path) -> None:
    stream = SoftLabelStream(Passing(PICTURES), hire(11).client, model="tiny", cache=tmp_path)
    with pytest.raises(BudgetSpent):
        stream.fetch()
    assert len(list(DataLoader(stream, batch_size=None))) == 11


def test_parquet_holds_what_the_model_saw_and_said(holder: Partner, tmp_path: Path) -> None:
    labels = fetched(holder, tmp_path / "cache", PICTURES[:5], views=2, temperature=4.0)
    assert labels.to_parquet(tmp_path / "set_train.parquet") == len(labels) == 10
    table = pq.read_table(tmp_path / "set_train.parquet")
    about = json.loads(table.schema.metadata[b"soft_labels"])
    assert (about["model"], about["version"], about["temperature"], about["views"]) == ("tiny", "1", 4.0, 2)
    for row, (image, label, soft_label) in zip(table.to_pylist(), everything(labels), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(row["image"])))
        assert np.array_equal(shown, image)
        assert row["label"] == label
        assert row["soft_label"] == soft_label.tolist()
        assert row["key"] == hashlib.sha256(shown.tobytes()).digest()


def test_an_export_is_a_data_set_of_the_house(holder: Partner, tmp_path: Path) -> None:
    fetched(holder, tmp_path / "cache").to_parquet(tmp_path / "set_train.parquet")
    read = load(tmp_path / "set", "train", 32, 32)
    assert read.classes == CLASSES
    assert np.array_equal(read.images.permute(0, 2, 3, 1).numpy(), np.stack([image for image, _ in PICTURES]))


def test_tar_shards_hold_what_the_model_saw_and_said(holder: Partner, tmp_path: Path) -> None:
    stream = SoftLabelStream(Passing(PICTURES), holder.client, model="tiny", cache=tmp_path / "cache")
    stream.fetch()
    shards = stream.to_webdataset(tmp_path / "shards", shard=16)
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    members: dict[str, bytes] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert len(members) == 4 * len(PICTURES)
    for number, (image, label, soft_label) in enumerate(stream):
        name = f"{number:09}"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(members[f"{name}.png"]))), image)
        assert int(members[f"{name}.cls"]) == label
        assert np.array_equal(np.load(io.BytesIO(members[f"{name}.soft.npy"])), soft_label.numpy())
        about = json.loads(members[f"{name}.json"])
        assert (about["version"], about["temperature"]) == ("1", None)


def test_what_a_transform_makes_random_is_not_paid_for(holder: Partner, tmp_path: Path) -> None:
    """Augmentation comes after the soft label: the second epoch finds everything."""
    labels = fetched(
        holder, tmp_path, transform=lambda image: image + np.random.default_rng().integers(0, 9, (32, 1, 1))
    )
    before = holder.charged
    for _ in range(2):
        assert len(list(DataLoader(labels, batch_size=8))) == 5
    assert holder.charged == before == 40


def test_a_data_set_that_numbers_its_classes_otherwise_is_refused(holder: Partner, tmp_path: Path) -> None:
    class Named(list[Item]):
        classes: tuple[str, ...] = CLASSES

    named = Named(PICTURES)
    soft(holder, tmp_path, named)
    for classes in (tuple(sorted(CLASSES)), CLASSES[:9]):
        named.classes = classes
        with pytest.raises(ValueError, match="numbers its classes"):
            soft(holder, tmp_path, named)
    named.classes = tuple(name.upper() for name in CLASSES)
    soft(holder, tmp_path, named)
