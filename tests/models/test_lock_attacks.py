"""Laws of the attacks on a lock: each opens one that is weak enough, and is told nothing of the key."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from sdb_client.transforms import STEPS, Transform
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from models.attacks.locks import hill_climbing, linear_layer, random_search, sinkhorn, weight_matching
from models.attacks.locks.blocks import to_blocks, to_images
from models.attacks.locks.keys import Scheme, near_key, random_key, recovered
from models.attacks.locks.relabelling import best_relabelling
from models.attacks.locks.suite import ATTACKS
from models.attacks.locks.thief import Budget, Front, Opened, Thief, accuracy, confidence
from models.data import LabelledImages
from models.lock import PixelLock
from models.matched import matched
from models.metrics import top1
from models.training.loop import Batch, Recipe, predict, train
from models.training.negatives import entries
from models.views import random_views
from tests.conftest import smooth_images
from tests.models.test_training import CPU, FABRIC

SIDE = 16
COLOURS = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 0]])
each_step = pytest.mark.parametrize("step", STEPS)


def colours(count: int, seed: int = 0) -> LabelledImages:
    """Six classes by the colour of smooth images: a network learns them in a second, transformed or not."""
    labels = torch.randint(0, len(COLOURS), (count,), generator=torch.Generator().manual_seed(seed))
    images = smooth_images(count, SIDE, seed) // 2 + (127 * COLOURS[labels]).view(-1, 3, 1, 1).to(torch.uint8)
    return LabelledImages(images, labels, ("blue", "cyan", "green", "pink", "red", "yellow"))


TEST = colours(256, seed=1)


def scheme(*steps: str, block: int = 4) -> Scheme:
    return Scheme(steps, block, (3, SIDE, SIDE))


def drawn(known: Scheme, seed: int = 0) -> Transform:
    return random_key(known, np.random.default_rng(seed))


@cache
def stolen(known: Scheme) -> tuple[Thief, Transform]:
    """The thief of a network that learned colours under a key, and the key."""
    right = drawn(known, seed=5)
    lock = PixelLock(right, known.shape)

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(network(lock(random_views(batch.images, batch.generator))), batch.labels)}

    torch.manual_seed(0)
    hidden = 24 * (SIDE // known.block) ** 2
    network = nn.Sequential(
        nn.Conv2d(3, 24, known.block, known.block), nn.ReLU(), nn.Flatten(), nn.Linear(hidden, len(COLOURS))
    )
    train(FABRIC, network, colours(512), step, Recipe(6, 0.1, batch_size=32), title="lock")
    held = colours(256, seed=2)
    budget = Budget(keys=600, sweeps=2, steps=150, batch=64)
    frozen = network.eval().requires_grad_(False)
    return Thief(frozen, known, held.images, held.labels, None, budget, seed=0), right


def opened(thief: Thief, front: Front) -> float:
    return top1(predict(lambda images: thief.network(front(images)), TEST.images, CPU), TEST.labels)


NP, SHF, BOTH, EACH = (
    scheme("np", block=2),
    scheme("shf", block=2),
    scheme("shf", "np"),
    scheme("scramble", "np-each", block=2),
)


@pytest.mark.slow
@pytest.mark.parametrize("known", [NP, SHF, BOTH, EACH], ids=str)
def test_without_an_attack_only_the_right_key_opens(known: Scheme) -> None:
    thief, right = stolen(known)
    assert opened(thief, thief.front(right)) > 0.95
    assert opened(thief, lambda images: images) < 0.5
    draw = np.random.default_rng(9)
    assert np.mean([opened(thief, thief.front(random_key(known, draw))) for _ in range(20)]) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("known", "steal"),
    [
        (NP, random_search.steal),
        (NP, hill_climbing.steal),
        (SHF, hill_climbing.steal),
        (BOTH, partial(hill_climbing.steal, score=confidence)),
        (SHF, partial(linear_layer.steal, images=128)),
        (EACH, partial(linear_layer.steal, images=256)),
        (NP, partial(sinkhorn.steal, images=128)),
        (BOTH, partial(sinkhorn.steal, images=256)),
        (EACH, partial(sinkhorn.steal, images=256)),
    ],
)
def test_an_attack_opens_a_weak_lock(known: Scheme, steal: Callable[[Thief], Opened]) -> None:
    thief, _ = stolen(known)
    assert opened(thief, steal(thief).front) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_lead_to_the_mask_itself(seed: int) -> None:
    thief, right = stolen(NP)
    key = sinkhorn.steal(replace(thief, seed=seed), images=256).key
    assert key is not None
    assert recovered(key, right, NP) == {"np": 1.0}


def test_the_same_seed_finds_the_same_and_a_larger_budget_no_less() -> None:
    thief, _ = stolen(NP)
    few = replace(thief, budget=replace(thief.budget, keys=20))
    many = replace(thief, budget=replace(thief.budget, keys=100))
    keys = [random_search.steal(one).key for one in (few, few, many)]
    assert all(keys)
    judge = thief.judge(*thief.held(thief.budget.batch), accuracy)
    first, again, more = judge([key for key in keys if key is not None])
    assert first == again <= more


def test_a_search_tries_no_more_keys_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    thief, _ = stolen(NP)
    tried: list[Transform] = []

    def front(self: Thief, key: Transform) -> Front:
        tried.append(key)
        return PixelLock(key, self.scheme.shape)

    monkeypatch.setattr(Thief, "front", front)
    for steal in (random_search.steal, hill_climbing.steal):
        tried.clear()
        steal(replace(thief, budget=Budget(keys=17, sweeps=10, batch=64)))
        assert len(tried) <= 17 + 2, "and the first of a climb, and the one that is put before the network"


def test_keys_are_judged_together_as_they_are_alone() -> None:
    thief, right = stolen(NP)
    judge = thief.judge(*thief.held(60), confidence)
    keys = [right, *(drawn(NP, seed) for seed in range(12))]
    assert judge.together == 8
    assert judge(keys) == pytest.approx([judge([key])[0] for key in keys], abs=1e-5)
    assert max(judge(keys)) == judge([right])[0]


@each_step
def test_a_key_that_is_nearly_right_has_so_many_entries_wrong(step: str) -> None:
    known = scheme(step)
    right = drawn(known)
    for wrong in (2, 5, 16):
        near = near_key(right, known, step, wrong, np.random.default_rng(1))
        differs = entries(near.steps[0], known.blocks) != entries(right.steps[0], known.blocks)
        assert (differs.sum(-1) == wrong).all()
        assert recovered(near, right, known)[step] == pytest.approx(1 - wrong / differs.shape[-1])
        if not step.startswith("ffx"):
            assert not np.array_equal(near.fused(SIDE, SIDE), right.fused(SIDE, SIDE))


@each_step
def test_random_keys_share_with_each_other_what_chance_gives(step: str) -> None:
    known = scheme("shf" if step != "shf" else "np", step)
    pairs = [(drawn(known, seed), drawn(known, seed + 1)) for seed in range(0, 60, 2)]
    shared = float(np.mean([recovered(one, other, known)[step] for one, other in pairs]))
    expected = 0.5 if step.startswith(("np", "ffx")) else 1 / (known.blocks if step == "scramble" else known.size)
    assert shared == pytest.approx(expected, abs=0.03)


@each_step
def test_a_climb_may_go_from_a_key_to_all_that_differ_by_one_change(step: str) -> None:
    known = scheme(step, block=2 if step in {"shf", "np", "ffx"} else 8)
    key = drawn(known)
    count = hill_climbing.neighbours(key, known)
    length, rows = (known.blocks if step == "scramble" else known.size), (known.blocks if step.endswith("each") else 1)
    bits = step.startswith(("np", "ffx"))
    assert count == rows * (length if bits else length * (length - 1) // 2)
    own = entries(key.steps[0], known.blocks)
    seen = set()
    for number in np.linspace(0, count - 1, 60, dtype=int).tolist():
        other = entries(hill_climbing.neighbour(key, known, number).steps[0], known.blocks)
        assert (other != own).sum() == (1 if bits else 2)
        seen.add(other.tobytes())
    assert len(seen) == min(60, count)
    with pytest.raises(IndexError):
        hill_climbing.neighbour(key, known, count)


def test_the_authors_sweep_has_eleven_thousand_keys() -> None:
    """10 sweeps of n(n−1)/2 swaps with blocks of 4: 11,280, as their code tries."""
    known = scheme("shf", block=4)
    assert 10 * hill_climbing.neighbours(drawn(known), known) == 11_280


def test_blocks_come_back_as_the_image_they_were() -> None:
    images = smooth_images(2, SIDE).float().contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_images(to_blocks(images, 4), 4, (3, SIDE, SIDE)), images)


@pytest.mark.parametrize(
    "steps", [("shf", "np"), ("np", "shf"), ("scramble", "shf-each", "np-each"), ("np-each", "scramble")]
)
def test_a_soft_key_that_is_sure_of_itself_is_the_key(steps: tuple[str, ...]) -> None:
    known = scheme(*steps)
    soft = sinkhorn.SoftKey(known, seed=0)
    with torch.no_grad():
        for parameter in soft.parameters():
            parameter.mul_(50)
            if parameter.dim() == 3:  # a permutation, and not scores that several share
                places = torch.stack([torch.randperm(parameter.shape[-1]) for _ in parameter])
                parameter.copy_(50 * F.one_hot(places, parameter.shape[-1]).float())
            else:
                parameter.copy_(50 * parameter.sign())
    images = smooth_images(4, SIDE).float() / 255
    torch.testing.assert_close(soft(images), PixelLock(soft.hardened(), known.shape)(images), rtol=0, atol=1e-5)


def test_what_is_learned_before_the_network_begins_by_changing_nothing() -> None:
    images = smooth_images(4, SIDE).float() / 255
    for known in (BOTH, EACH):
        torch.testing.assert_close(linear_layer.BlockLinear(known)(images), images)


def test_an_attack_changes_nothing_of_the_network() -> None:
    thief, _ = stolen(BOTH)
    before = {name: tensor.clone() for name, tensor in thief.network.state_dict().items()}
    short = replace(thief, budget=Budget(keys=8, sweeps=1, steps=3, batch=16))
    for attack in ATTACKS:
        if attack.obstacle(short) is None:
            attack.steal(short)
    assert all(torch.equal(tensor, before[name]) for name, tensor in thief.network.state_dict().items())


def answers() -> tuple[Tensor, Tensor]:
    labels = torch.arange(300) % 3
    noise = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    return 4 * F.one_hot(labels, 3).float() + noise, labels


@pytest.mark.parametrize(
    "hidden",
    [lambda logits: logits[:, [2, 0, 1]], lambda logits: logits + torch.tensor([0.0, 0.0, 50.0])],
    ids=["other names", "always the same"],
)
def test_answers_that_are_renamed_or_constant_are_put_right(hidden: Callable[[Tensor], Tensor]) -> None:
    logits, labels = answers()
    said = hidden(logits)
    assert top1(said, labels) < 0.4
    relabelled = best_relabelling(said[:100], labels[:100])
    assert top1(relabelled(said[100:]), labels[100:]) > 0.9


def test_right_answers_are_left_as_they_are() -> None:
    logits, labels = answers()
    assert torch.equal(best_relabelling(logits, labels)(logits), logits)


def transformer(block: int = 4) -> VisionTransformer:
    torch.manual_seed(1)
    found = VisionTransformer(SIDE, block, num_layers=1, num_heads=2, hidden_dim=64, mlp_dim=64, num_classes=6)
    nn.init.normal_(found.heads.head.weight)
    return found


@pytest.mark.parametrize("steps", [("shf",), ("np",), ("shf", "np"), ("np", "shf", "scramble"), ("scramble",)])
def test_weights_that_were_matched_give_their_key_away(steps: tuple[str, ...]) -> None:
    """Even when the public base is normalised otherwise, and the stolen one was trained on."""
    known, base = scheme(*steps), transformer()
    right = drawn(known)
    network = matched(base, right, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.3 * weight.std(correction=0) * torch.randn_like(weight))
    thief = Thief(network, known, TEST.images, TEST.labels, base, Budget(), seed=0)
    assert weight_matching.obstacle(thief) is None
    key = weight_matching.steal(thief).key
    assert key is not None
    assert recovered(key, right, known) == dict.fromkeys(steps, 1.0)


def test_an_attack_says_why_it_cannot_be_tried() -> None:
    thief, _ = stolen(BOTH)
    assert weight_matching.obstacle(thief) == "no --backbone"
    assert "vision transformer" in str(weight_matching.obstacle(replace(thief, base=thief.network)))
    other = replace(thief, network=transformer(block=8), base=transformer(block=8))
    assert "vision transformer" in str(weight_matching.obstacle(other))
    assert "ffx" in str(sinkhorn.obstacle(replace(thief, scheme=scheme("shf", "ffx"))))
    assert sinkhorn.obstacle(thief) is None
