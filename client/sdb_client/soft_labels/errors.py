"""What can stop the fetching of soft labels, or make a cache unfit for it."""

from sdb_client.errors import SdbError


class BudgetSpent(SdbError):
    """The key's budget is spent; what was answered is in the cache, and `fetch` goes on from there after a top-up.

    `labelled` of `total` images (or views of them) have their soft label.
    """

    def __init__(self, labelled: int, total: int) -> None:
        super().__init__(f"the budget is spent: {labelled} of {total} images are labelled; top up, then fetch again")
        self.labelled, self.total = labelled, total


class NoSoftLabels(SdbError):
    """The credential is not worth the scope `distill`: what it is answered would mislead a student."""


class NotFetched(SdbError):
    """The data set was used before `fetch`."""


class OtherCache(SdbError):
    """The cache holds labels of another form; the message says which."""


class DamagedCache(SdbError):
    """Records of the cache are not what was written; `keys` are those of the images that they belong to."""

    def __init__(self, keys: list[bytes]) -> None:
        super().__init__(f"{len(keys)} soft labels of the cache are damaged")
        self.keys = keys
