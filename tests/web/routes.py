"""The route table of the application, as FastAPI and the dispatcher themselves see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path

from broker.assembly import Broker
from broker.web.api import PREFIX
from broker.web.api.access import Allowed
from broker.web.app import App

PUBLIC = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}
"""What FastAPI itself serves to anybody: the description of the routes, which stands in the sources anyway."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A route that FastAPI answers.

    Args:
        method: an HTTP method.
        path: with its parameters in braces.
        actions: what its dependencies demand of the operator; empty for a route that nobody guards.
        reads_body: whether FastAPI would read a body before it asks who sent it.
    """

    method: str
    path: str
    actions: tuple[str, ...]
    reads_body: bool

    @property
    def example(self) -> str:
        """A path that the route answers."""
        path = self.path.replace(":path}", "}")
        return path.replace("{index}", "0").replace("{id}", "nobody").replace("{hash}", "active")

    def answers(self, path: str) -> bool:
        """Whether the route is the one of a path."""
        return compile_path(self.path)[0].match(path) is not None


def app_of(broker: Broker) -> App:
    """The application of a broker that runs already."""

    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield

    return App(broker, nothing)


def api_routes(app: FastAPI) -> list[ApiRoute]:
    """Every route that FastAPI answers, however deep it was included."""
    found = []
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context._effective_route, "dependant", None)
        actions = tuple(sorted(_demanded(dependant))) if dependant is not None else ()
        reads_body = getattr(context._effective_route, "body_field", None) is not None
        for method in sorted(getattr(context._effective_route, "methods", None) or ["ANY"]):
            found.append(ApiRoute(method, str(context.path), actions, reads_body))
    return found


def unguarded(routes: list[ApiRoute]) -> list[str]:
    """The routes that anybody could use though nothing says so, or that would read a stranger's body."""
    wrong = []
    for route in routes:
        if (route.method, route.path) in PUBLIC:
            continue
        if not route.path.startswith(f"{PREFIX}/") or len(route.actions) != 1 or route.reads_body:
            wrong.append(f"{route.method} {route.path}")
    return wrong


def _demanded(dependant: Dependant) -> Iterator[str]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Allowed):
            yield inner.call.action
        yield from _demanded(inner)
