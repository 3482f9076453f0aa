"""Messages between training workers of one machine, through memory that all of them map.

A worker writes its message into memory of its own and sends one byte to every other worker; when it has a byte of each
of them it reads their messages where they are. It has two such memories and uses them in turn: whoever has sent the
byte of a step has read the messages of the step before, so the step after may write over these.

The memory has no name (memfd_create), and the sockets none on disk: nothing is left behind when workers are killed, and
the size of /dev/shm is no limit. A worker's sockets close when it ends, whatever it dies of, and the others raise.
"""

import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.group import Rows

_LONGEST_WAIT_S = 1800.0
"""For another worker, which may be writing a checkpoint; torch.distributed waits as long."""
_READY = b"."
_NUM_MEMORIES = 2
_WORD = 8  # bytes; every part of a message begins at a multiple of it


class Place(NamedTuple):
    """Where a worker is, as it tells the others."""

    machine: str
    """Processes that have the same one can share memory."""
    device: str
    """Type of what it computes on."""
    address: bytes
    """Of its listener."""

    @classmethod
    def of(cls, listener: socket.socket, device: torch.device) -> "Place":
        """Where this process is."""
        # One start of one kernel, and in it one space of socket names, which containers may have for themselves.
        boot, names = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/net")
        return cls(f"{boot} {names}", device.type, listener.getsockname())


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket for `SharedMemory.connect`, with a name that the kernel chooses."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        yield listener


class SharedMemory:
    """A `Group` of processes of one machine, made by `connect`.

    Each has memory for two messages, as large as the largest so far and a quarter more.
    """

    def __init__(self, rank: int, own: Sequence["_Memory"], peers: Sequence["_Peer"]) -> None:
        self.rank, self.world_size = rank, 1 + len(peers)
        self._own, self._peers, self._turn = own, peers, 0

    @classmethod
    def connect(
        cls, rank: int, listener: socket.socket, addresses: Sequence[bytes], barrier: Callable[[], object]
    ) -> "SharedMemory":
        """Joins the workers that listen at `addresses`, by rank; each calls this with a `barrier` of all of them."""
        own = [_Memory(os.memfd_create(f"training worker {rank}")) for _ in range(_NUM_MEMORIES)]
        connections = [socket.socket(socket.AF_UNIX) for _ in addresses[:rank]]
        for connection, address in zip(connections, addresses, strict=False):
            connection.connect(address)
        barrier()  # so that nobody waits below for a worker that died before it came here
        connections += [listener.accept()[0] for _ in addresses[rank + 1 :]]
        for connection in connections:
            socket.send_fds(connection, [struct.pack("=q", rank)], [memory.descriptor for memory in own])
        peers = sorted((_Peer.greeted(connection) for connection in connections), key=lambda peer: peer.rank)
        return cls(rank, own, peers)

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        """As `Group.swap`; adds in the order of ranks.

        Raises ConnectionError where another worker is gone, TimeoutError where it has said nothing for half an hour,
        RuntimeError where it does not learn the same parameters.
        """
        self._turn = (self._turn + 1) % _NUM_MEMORIES
        shapes = [values.shape[1:] for _, values in ragged]
        own = self._write(dense, ragged, shapes)
        for peer in self._peers:
            peer.send()
        for peer in self._peers:
            peer.wait()
        messages = [peer.memories[self._turn].read(own.contents, shapes, peer.rank) for peer in self._peers]
        messages.insert(self.rank, own)
        mean = messages[0].dense + messages[1].dense
        for message in messages[2:]:
            mean += message.dense
        gathered = [
            (torch.cat([rows for rows, _ in items]), torch.cat([values for _, values in items]))
            for items in zip(*(message.ragged for message in messages), strict=True)
        ]
        return mean.div_(len(messages)), gathered

    def _write(self, dense: Sequence[Tensor], ragged: Sequence[Rows], shapes: Sequence[torch.Size]) -> "_Message":
        contents = _Contents(sum(part.numel() for part in dense), [len(rows) for rows, _ in ragged])
        message = self._own[self._turn].begin(contents, shapes)
        if dense:
            torch.cat([part.flatten() for part in dense], out=message.dense)
        for (rows, values), (own_rows, own_values) in zip(message.ragged, ragged, strict=True):
            rows.copy_(own_rows)
            values.copy_(own_values)
        return message

    def close(self) -> None:
        """Leaves the others, who raise when they next wait for this worker."""
        for memory in self._own:
            memory.close()
        for peer in self._peers:
            peer.close()


class _Contents(NamedTuple):
    """What a message begins with, and all that must be known to find its parts."""

    floats: int
    """Of the dense part."""
    counts: list[int]
    """Rows of each table."""

    def size(self, shapes: Sequence[torch.Size]) -> int:
        """Bytes of the message, where a row of each table is said something of these shapes of."""
        words = 2 + len(self.counts) + _words(self.floats)
        return _WORD * (words + sum(n + _words(n * prod(shape)) for n, shape in zip(self.counts, shapes, strict=True)))


class _Message(NamedTuple):
    """Views of the parts of a message."""

    contents: _Contents
    dense: Tensor
    """[contents.floats]."""
    ragged: list[Rows]


class _Memory:
    """Memory for one message, which its owner writes and others read; it grows with its messages."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._size = 0

    def begin(self, contents: _Contents, shapes: Sequence[torch.Size]) -> _Message:
        """A message to be filled in. Raises OSError where there is no memory for it."""
        size = contents.size(shapes)
        if size > self._size:
            # Others may still map what was there before, and know of the rest by the message itself.
            os.posix_fallocate(self.descriptor, 0, size + size // 4)
            self._map()
        head = (contents.floats, len(contents.counts), *contents.counts)
        struct.pack_into(f"={len(head)}q", self._bytes, 0, *head)
        return self._message(contents, shapes)

    def read(self, wanted: _Contents, shapes: Sequence[torch.Size], rank: int) -> _Message:
        """The message of worker `rank`, whose counts alone may differ. Raises RuntimeError where more does."""
        if not self._size:
            self._map()
        floats, tables = struct.unpack_from("=2q", self._bytes)
        if (floats, tables) != (wanted.floats, len(wanted.counts)):
            raise RuntimeError(
                f"worker {rank} has gradients of {floats} numbers and rows of {tables} tables, this one has "
                f"{wanted.floats} and {len(wanted.counts)}; every worker must learn the same parameters in a step"
            )
        contents = _Contents(floats, list(struct.unpack_from(f"={tables}q", self._bytes, 2 * _WORD)))
        if contents.size(shapes) > self._size:
            self._map()
        return self._message(contents, shapes)

    def close(self) -> None:
        """What is mapped stays until the last view of it is gone."""
        os.close(self.descriptor)

    def _map(self) -> None:
        self._bytes = mmap.mmap(self.descriptor, 0)
        self._size = len(self._bytes)
        whole = self._size // _WORD
        self._ints = torch.frombuffer(self._bytes, dtype=torch.int64, count=whole)
        self._floats = torch.frombuffer(self._bytes, dtype=torch.float32, count=2 * whole)

    def _message(self, contents: _Contents, shapes: Sequence[torch.Size]) -> _Message:
        at = 2 + len(contents.counts)
        dense = self._floats[2 * at :][: contents.floats]
        at += _words(contents.floats)
        ragged = []
        for count, shape in zip(contents.counts, shapes, strict=True):
            rows, numbers = self._ints[at : at + count], count * prod(shape)
            at += count
            ragged.append((rows, self._floats[2 * at :][:numbers].view(count, *shape)))
            at += _words(numbers)
        return _Message(contents, dense, ragged)


class _Peer(NamedTuple):
    """Another worker, as this one sees it."""

    rank: int
    connection: socket.socket
    memories: list[_Memory]

    @classmethod
    def greeted(cls, connection: socket.socket) -> "_Peer":
        """Who is at the other end, by its first message. Raises ConnectionError where nobody is."""
        connection.settimeout(_LONGEST_WAIT_S)
        said, descriptors, _, _ = socket.recv_fds(connection, _WORD, _NUM_MEMORIES, socket.MSG_CMSG_CLOEXEC)
        if len(descriptors) != _NUM_MEMORIES:
            raise ConnectionError("a worker ended before training began")
        return cls(struct.unpack("=q", said)[0], connection, [_Memory(descriptor) for descriptor in descriptors])

    def send(self) -> None:
        """Says that this worker's message is written. Raises ConnectionError where the other is gone."""
        try:
            self.connection.sendall(_READY)
        except OSError as error:
            raise self._gone() from error

    def wait(self) -> None:
        """Returns when the other's message is written.

        The kernel hands a byte over, and with it all that was written before it, on any processor.
        """
        try:
            said = self.connection.recv(1)
        except TimeoutError as error:
            raise TimeoutError(f"worker {self.rank} has sent nothing for {_LONGEST_WAIT_S:.0f} s") from error
        except OSError as error:
            raise self._gone() from error
        if said != _READY:
            raise self._gone()

    def _gone(self) -> ConnectionError:
        return ConnectionError(f"worker {self.rank} is gone: it was killed, or its log has the error that ended it")

    def close(self) -> None:
        """Hangs up."""
        self.connection.close()
        for memory in self.memories:
            memory.close()


def _words(floats: int) -> int:
    """That hold so many float32."""
    return (floats + 1) // 2
