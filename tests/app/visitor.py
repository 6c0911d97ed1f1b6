"""A visitor of the console without a browser: follows forms as a page has them, keeps cookies, runs no script."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from ipaddress import ip_address
from itertools import count

import httpx
from fastapi import FastAPI

from tests.conftest import Api

Fields = dict[str, str | list[str]]
VISITORS = count(1)


@dataclass
class Form:
    """A form of a page: where it goes, and what it would send if nothing was typed."""

    action: str
    fields: Fields = field(default_factory=dict)


class Page(HTMLParser):
    """The forms, the links and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.text = ""
        self._select = self._textarea = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "form":
            self.forms.append(Form(given.get("action", "")))
        elif tag == "select":
            self._select = given.get("name", "")
        elif tag == "textarea":
            self._textarea = given["name"]
            self.forms[-1].fields[self._textarea] = ""
        elif tag == "option" and self._select and ("selected" in given or self._select not in self.forms[-1].fields):
            self.forms[-1].fields[self._select] = given["value"]
        elif tag == "input" and given.get("name"):
            self._input(given)

    def _input(self, given: dict[str, str]) -> None:
        fields, name, value = self.forms[-1].fields, given["name"], given.get("value", "")
        if given.get("type") != "checkbox":
            fields[name] = value
        elif "checked" in given:
            fields[name] = [*fields.get(name, []), value]

    def handle_endtag(self, tag: str) -> None:
        self._select = "" if tag == "select" else self._select
        self._textarea = "" if tag == "textarea" else self._textarea

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.forms[-1].fields[self._textarea] = data.lstrip("\n")
        self.text += f" {data}"

    def form(self, action: str) -> Form:
        """The form that goes to `action`."""
        (found,) = [form for form in self.forms if form.action == action]
        return found


@dataclass
class Visitor:
    """One browser profile: its cookies, and the application it speaks to."""

    client: httpx.AsyncClient

    async def log_in(self, api_key: str, there: str = "") -> httpx.Response:
        """Send the login form."""
        return await self.send("/console/login", "/console/login", {"api_key": api_key}, params={"next": there})

    async def send(
        self, page: str, action: str = "", typed: Fields | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        """Load `page`, fill its form that goes to `action` (the page itself by default), and send it."""
        form = Page((await self.client.get(page, params=params)).text).form(action or page)
        return await self.client.post(form.action, data=form.fields | (typed or {}))

    async def page(self, path: str) -> Page:
        """A page that must be there."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)


@asynccontextmanager
async def visitor(app: FastAPI, url: str = "http://box") -> AsyncIterator[Visitor]:
    """A new visitor without cookies, at an address where nobody has tried to log in yet."""
    address = str(ip_address("10.0.0.0") + next(VISITORS))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        yield Visitor(client)


@asynccontextmanager
async def admin(api: Api) -> AsyncIterator[Visitor]:
    """A visitor who is logged in as the first admin."""
    async with visitor(api.app) as someone:
        assert (await someone.log_in(api.admin_key)).status_code == 303
        yield someone
