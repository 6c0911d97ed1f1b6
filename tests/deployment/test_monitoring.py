"""The dashboard and the alerts ask for what a live server says, and each alert tells at night what to do."""

import re

import pytest
import yaml
from fastapi.routing import APIRoute, iter_route_contexts

from app.console.errors import PAGE_STATUS
from app.metrics.families import REPLACES
from tests.app.scraping import Scrape, scrape
from tests.conftest import ROOT, Api, bearer
from tests.deployment.queries import ALERTS, Query, alerts, panels, queries

OUTCOMES = {*PAGE_STATUS, "ok", "left"}
OWN = {"up"}  # metrics that Prometheus makes of a scrape
PAGE = ROOT / "docs" / "monitoring.md"


async def traffic(api: Api, photo: bytes) -> Scrape:
    """What a server says after some of everything."""
    key = await api.issue(1)
    for credential in (None, key["api_key"], key["api_key"], "sdb_cli_forged"):
        headers = {} if credential is None else bearer(credential)
        await api.client.post("/v1/models/tiny/predict", content=photo, headers=headers)
    return await scrape(api.client)


async def test_every_metric_and_label_of_a_query_is_one_that_a_live_server_has(api: Api, photo: bytes) -> None:
    live = await traffic(api, photo)
    for query in queries():
        assert query.metrics - OWN <= live.names, query.text
        for metric, label in query.labels:
            assert label in live.labels(metric), (query.text, metric, label)
        assert query.named <= set().union(*(live.labels(metric) for metric in query.metrics)), query.text


def test_values_that_queries_look_for_can_occur(api: Api) -> None:
    routes = {
        str(route.path) for route in iter_route_contexts(api.app.routes) if isinstance(route.original_route, APIRoute)
    }
    for query in queries():
        for label, value in query.values:
            if label in {"outcome", "reason"}:
                assert set(value.split("|")) <= {*OUTCOMES, *REPLACES}, query.text
            if label == "route":
                found = {route for route in routes if re.fullmatch(value, route)}
                assert "/v1/models/{model}/predict" in found, query.text
                assert found >= {"/v2/models/{model}/infer", "/hf/models/{model}"}
                assert not any("admin" in route or "console" in route for route in found)


def test_a_query_with_a_metric_or_a_label_that_does_not_exist_is_found_out() -> None:
    query = Query.of('sum by (tier) (rate(sdb_typo_total{instance=~"$instance", x!="y"}[$__rate_interval]))', "{{key}}")
    assert (query.metrics, query.named) == ({"sdb_typo_total"}, {"key"})
    assert query.labels == {("sdb_typo_total", "tier"), ("sdb_typo_total", "x")}
    with pytest.raises(ValueError, match=r"."):
        Query.of("sum by (tier) (rate(sdb_requests_total")


def test_each_alert_says_how_bad_it_is_and_what_it_is_about_and_has_its_page_in_the_runbook() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) >= 12
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert "$labels.instance" in rule["annotations"]["summary"]
    runbook = re.findall(r"^### (Sdb\w+)$", PAGE.read_text(), re.MULTILINE)
    assert runbook == names


def test_the_scrape_configuration_reads_the_rules_and_presents_the_token() -> None:
    read = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text())
    assert read["rule_files"] == ["/etc/prometheus/alerts.yml"]
    (job,) = read["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("sdb", "/metrics")
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert all('job="sdb"' in rule["expr"] for rule in alerts())


def test_no_two_panels_of_the_dashboard_are_in_the_same_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())
