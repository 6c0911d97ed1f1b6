"""The names of the calls in the OpenAPI document, which generated clients turn into the names of their functions."""

from fastapi.routing import APIRoute


def operation_id(route: APIRoute) -> str:
    """Tag and function, `keys_create`; of a call that may name the model's version, the path that does says so."""
    group = str(route.tags[0]).replace(" ", "_").lower() if route.tags else ""
    suffix = "version" if "{version}" in route.path else ""
    return "_".join(part for part in (group, route.name, suffix) if part)
