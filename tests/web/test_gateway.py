"""A relay that ends with its client: who may end it, and that nothing of it is left in the task that ran it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from broker.web.asgi import ClientLeft, Message
from broker.web.gateway import _while_there


class Client:
    """Is there until it leaves."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()

    async def receive(self) -> Message:
        """What ASGI's `receive` gives after the body."""
        await self.leave.wait()
        return {"type": "http.disconnect"}


class Relay:
    """Work that begins and ends on demand, and takes some turns of the loop to end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.stopped = False
        self.settled = False

    async def run(self) -> None:
        """Waits to be let go."""
        try:
            self.begun.set()
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        finally:
            await asyncio.sleep(0)
            self.settled = True


async def _run(client: Client, relay: Relay, *acts: Callable[[asyncio.Task[int]], object]) -> asyncio.Task[int]:
    """Runs the relay in a task of its own and does `acts` once it has begun; what it returns is ended."""

    async def handled() -> int:
        with suppress(ClientLeft):
            await _while_there(client.receive, relay.run())
        for _ in range(3):
            await asyncio.sleep(0)  # whoever handles it may wait again, and is not cancelled then
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(handled())
    await relay.begun.wait()
    for act in acts:
        act(task)
    await asyncio.wait((task,))
    return task


async def test_a_client_that_leaves_ends_the_relay() -> None:
    """The relay is cancelled and settled, and no cancellation stays on the task."""
    client, relay = Client(), Relay()
    task = await _run(client, relay, lambda _: client.leave.set())
    assert (relay.stopped, relay.settled, task.result()) == (True, True, 0)


async def test_a_relay_that_ends_leaves_no_watch() -> None:
    """Nobody waits for the client any more, and the task goes on unharmed."""
    client, relay = Client(), Relay()
    task = await _run(client, relay, lambda _: relay.may_end.set())
    assert (relay.stopped, relay.settled, task.result()) == (False, True, 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_task_that_others_end_is_ended(leaves: bool) -> None:
    """A server that stops is not mistaken for a client that left, also when the client leaves at that moment."""
    client, relay = Client(), Relay()
    acts = [lambda _: client.leave.set()] if leaves else []
    task = await _run(client, relay, *acts, lambda task: task.cancel())
    assert (task.cancelled(), relay.stopped) == (True, True)


async def test_an_error_of_the_relay_is_the_callers() -> None:
    """What goes wrong in the relay is raised as it is."""

    async def wrong() -> None:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await _while_there(Client().receive, wrong())
