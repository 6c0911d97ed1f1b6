"""What Prometheus reads of `/metrics`, by name and labels."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]


class Scrape(dict[Sample, float]):
    """All samples of one look at `/metrics`."""

    @classmethod
    def of(cls, text: str) -> "Scrape":
        """What the text says."""
        families = text_string_to_metric_families(text)
        return cls((_sample(one.name, one.labels), one.value) for family in families for one in family.samples)

    def value(self, name: str, **labels: str) -> float:
        """Of one sample; 0 if it is not there."""
        return self.get(_sample(name, labels), 0.0)

    def total(self, name: str) -> float:
        """Of all samples of that name."""
        return sum(value for (found, _), value in self.items() if found == name)

    @property
    def names(self) -> set[str]:
        """Of the samples."""
        return {name for name, _ in self}

    def labels(self, name: str) -> set[str]:
        """The names of the labels that samples of that name have."""
        return {label for found, labels in self for label, _ in labels if found == name}


def _sample(name: str, labels: dict[str, str]) -> Sample:
    return name, frozenset((label, value) for label, value in labels.items() if value)


async def scrape(client: httpx.AsyncClient, **headers: str) -> Scrape:
    """The metrics now."""
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return Scrape.of(answer.text)
