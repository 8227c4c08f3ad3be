"""A TCP proxy in front of every node's peer port, so that single links can be cut and healed.

Who opened a connection is read from the kernel's socket table: the nodes need not know that there is a proxy. A cut
link is a hole, as a pulled cable is: connections stay open, bytes stand still, new connections are accepted and
answer nothing; when it is healed, what stood still goes on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Callable

CHUNK_BYTES = 64 << 10


def socket_inode(local_port: int, remote_port: int) -> str | None:
    """The inode of the loopback socket with these ports, from /proc/net/tcp."""
    wanted = (f"{local_port:04X}", f"{remote_port:04X}")
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            columns = line.split()
            if (columns[1].split(":")[1], columns[2].split(":")[1]) == wanted:
                return columns[9]
    return None


def owns_socket(pid: int, inode: str) -> bool:
    """Whether the process holds that socket."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}") == f"socket:[{inode}]":
                    return True
            except OSError:
                continue
    except OSError:
        pass
    return False


class Links:
    """The proxies of one cluster, on a thread of their own."""

    def __init__(self, pids: Callable[[], dict]):
        self._pids = pids  # name -> pid of the nodes that run
        self._cut: set = set()  # {frozenset({a, b})}
        self._changed: asyncio.Condition | None = None
        self._servers: list = []
        self._tasks: set = set()
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="links")
        self._thread.start()
        self._on_loop(self._begin())

    def _on_loop(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _begin(self) -> None:
        self._changed = asyncio.Condition()

    def add(self, name: str, listen_port: int, target_port: int) -> None:
        """Puts a proxy in front of a node's peer port."""

        async def begin():
            async def accept(reader, writer):
                task = asyncio.current_task()
                self._tasks.add(task)
                try:
                    await self._serve(name, target_port, reader, writer)
                except asyncio.CancelledError:
                    pass
                finally:
                    self._tasks.discard(task)

            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", listen_port))

        self._on_loop(begin())

    def cut(self, a: str, b: str) -> None:
        """Nothing passes between these two until `heal`."""
        self._on_loop(self._set(self._cut | {frozenset((a, b))}))

    def cut_off(self, name: str, others) -> None:
        """Nothing passes between this node and the others."""
        self._on_loop(self._set(self._cut | {frozenset((name, other)) for other in others}))

    def heal(self) -> None:
        """All links work again."""
        self._on_loop(self._set(set()))

    async def _set(self, cut: set) -> None:
        async with self._changed:
            self._cut = cut
            self._changed.notify_all()

    async def _passable(self, link: frozenset) -> None:
        if link in self._cut:
            async with self._changed:
                await self._changed.wait_for(lambda: link not in self._cut)

    def _opener(self, writer) -> str | None:
        ours, theirs = writer.get_extra_info("sockname")[1], writer.get_extra_info("peername")[1]
        inode = socket_inode(theirs, ours)
        if inode is None:
            return None
        return next((name for name, pid in self._pids().items() if owns_socket(pid, inode)), None)

    async def _serve(self, target: str, target_port: int, reader, writer) -> None:
        self.connections += 1
        link = frozenset((self._opener(writer) or "?", target))
        onward = None
        try:
            await self._passable(link)
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", target_port)
            pumps = [
                asyncio.ensure_future(self._pump(link, reader, onward)),
                asyncio.ensure_future(self._pump(link, onward_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the node is not there: its caller sees a closed connection, as without a proxy
        finally:
            # An end that a hole swallowed must not be told before the link is healed.
            await self._passable(link)
            for side in (writer, onward):
                if side is not None:
                    side.transport.abort()

    async def _pump(self, link: frozenset, reader, writer) -> None:
        try:
            while True:
                data = await reader.read(CHUNK_BYTES)
                await self._passable(link)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return

    def close(self) -> None:
        """Ends all proxies and the thread."""

        async def end():
            for server in self._servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._on_loop(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
