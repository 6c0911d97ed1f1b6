"""How one description of a call becomes a method of both clients: one returns the answer, the other a coroutine of it.

    class Models(Asker[Kind]):
        @call
        def get(self, name: str) -> Request[ModelCard]: ...

    Client().models.get("cifar10")             # a ModelCard
    await AsyncClient().models.get("cifar10")  # a ModelCard

The description is pure: it makes a request and sends nothing.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import update_wrapper, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from sdb_client.transport.request import Request

Kind = TypeVar("Kind")
P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """The kind of client that returns when the answer is there."""


class Awaiting:
    """The kind of client that is awaited."""


class Asker(Generic[Kind]):
    """Whatever has calls: a client, or a resource, which asks through its client."""

    def _ask(self, request: Request[Any]) -> Any:  # noqa: ANN401 - an answer or a coroutine of it: `call` says which
        raise NotImplementedError

    def _pages(self, first: "Paged[Any]") -> Any:  # noqa: ANN401 - likewise
        raise NotImplementedError


class Resource(Asker[Kind]):
    """A group of calls of a client."""

    def __init__(self, client: Asker[Kind]) -> None:
        self._client = client

    def _ask(self, request: Request[Any]) -> Any:  # noqa: ANN401
        return self._client._ask(request)

    def _pages(self, first: "Paged[Any]") -> Any:  # noqa: ANN401
        return self._client._pages(first)


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, and the cursor of the next part if there is one."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True)
class Paged(Generic[T]):
    """A list that comes in pages: `page` makes the request for the one that a cursor names, None for the first."""

    page: Callable[[str | None], Request[Page[T]]]


class call(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that asks once."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self._describe = describe
        update_wrapper(self, describe)  # type: ignore[arg-type]

    @overload
    def __get__(self, asker: None, owner: type) -> Callable[Concatenate[Any, P], Request[T]]: ...
    @overload
    def __get__(self, asker: Asker[Blocking], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, asker: Asker[Awaiting], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, asker: Asker[Any] | None, owner: type) -> Callable[..., Any]:
        return self._describe if asker is None else _method(self._describe.__get__(asker, owner), asker._ask)


class paged(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that returns an iterator, which asks for page after page."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Paged[T]]) -> None:
        self._describe = describe
        update_wrapper(self, describe)  # type: ignore[arg-type]

    @overload
    def __get__(self, asker: None, owner: type) -> Callable[Concatenate[Any, P], Paged[T]]: ...
    @overload
    def __get__(self, asker: Asker[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, asker: Asker[Awaiting], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, asker: Asker[Any] | None, owner: type) -> Callable[..., Any]:
        return self._describe if asker is None else _method(self._describe.__get__(asker, owner), asker._pages)


def _method(describe: Callable[P, Any], act: Callable[[Any], Any]) -> Callable[P, Any]:
    """Describe, then act on it; named and documented as the description is."""

    @wraps(describe)
    def method(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401
        return act(describe(*args, **kwargs))

    return method
