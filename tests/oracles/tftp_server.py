"""A small TFTP server of our own that follows RFC 1350, 2347-2349 and 7440, and can misbehave.

``lies`` is a set of words; see the uses of ``self.lies``.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Collection, Mapping


class TftpServer:
    def __init__(
        self,
        files: Mapping[str, bytes],
        sock: socket.socket | None = None,
        *,
        options: Collection[str] = ("blksize", "tsize", "windowsize"),
        lies: Collection[str] = (),
        roll_to: int = 0,
        loss: float = 0.0,
    ) -> None:
        self.files = files
        self.options = options
        self.lies = set(lies)
        self.roll_to = roll_to
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.refused_tids = 0
        self._dice = random.Random(7)
        self._loss = loss
        if sock is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
        self._sock = sock
        self.address, self.port = sock.getsockname()
        self._family_sockets: list[socket.socket] = []
        self._stop = False

    def __enter__(self) -> TftpServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._sock.close()
        for sock in self._family_sockets:
            sock.close()

    def give_sockets(self, sockets: list[socket.socket]) -> None:
        """Transfer sockets made elsewhere (in another network namespace)."""
        self._family_sockets = sockets

    def _transfer_socket(self) -> socket.socket:
        if self._family_sockets:
            return self._family_sockets.pop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((self.address, 0))
        return sock

    def _serve(self) -> None:
        self._sock.settimeout(0.1)
        while not self._stop:
            try:
                packet, peer = self._sock.recvfrom(2048)
            except TimeoutError:
                continue
            except OSError:
                return
            words = packet[2:].split(b"\0")[:-1]
            name = words[0].decode()
            asked = {k.decode(): v.decode() for k, v in zip(words[2::2], words[3::2], strict=True)}
            self.requests.append((name, asked))
            threading.Thread(
                target=self._guarded, args=(self._transfer_socket(), peer, name, asked), daemon=True
            ).start()

    def _guarded(
        self, sock: socket.socket, peer: tuple[str, int], name: str, asked: dict[str, str]
    ) -> None:
        try:
            self._transfer(sock, peer, name, asked)
        except OSError:
            return
        finally:
            sock.close()

    def _send(self, sock: socket.socket, packet: bytes, peer: tuple[str, int]) -> None:
        if self._dice.random() >= self._loss:
            sock.sendto(packet, peer)

    def _transfer(
        self, sock: socket.socket, peer: tuple[str, int], name: str, asked: dict[str, str]
    ) -> None:
        sock.settimeout(0.2)
        if "refuse options" in self.lies and asked:
            return self._send(sock, struct.pack("!HH", 5, 8) + b"no options\0", peer)
        if "error" in self.lies:
            return self._send(sock, struct.pack("!HH", 5, 2) + b"access\x1b[31m violation\0", peer)
        if "junk" in self.lies:
            return self._send(sock, b"\xff\xff\xff\xff\xff", peer)
        if "silence" in self.lies:
            return None
        if name not in self.files:
            return self._send(sock, struct.pack("!HH", 5, 1) + b"File not found\0", peer)
        data = self.files[name]
        blksize, window = 512, 1
        answer = {key: value for key, value in asked.items() if key in self.options}
        if "tsize" in answer:
            answer["tsize"] = str(len(data))
        answer.update(self._lie_in_oack())
        if "blksize" in answer and answer["blksize"].isdigit():
            blksize = int(answer["blksize"])
        if "windowsize" in answer and answer["windowsize"].isdigit():
            window = int(answer["windowsize"])
        if answer:
            oack = struct.pack("!H", 6) + b"".join(
                f"{key}\0{value}\0".encode() for key, value in answer.items()
            )
            if not self._until_ack(sock, peer, [oack], 0):
                return None
        if "stranger" in self.lies:
            self._stranger(peer)
        if "drip" in self.lies:
            blksize = 512
        self._blocks(sock, peer, data, blksize, window)
        return None

    def _lie_in_oack(self) -> dict[str, str]:
        lies = {
            "big blksize": {"blksize": "65000"},
            "tiny blksize": {"blksize": "1"},
            "zero window": {"windowsize": "0"},
            "unasked": {"multicast": "yes"},
            "no number": {"tsize": "12x"},
            "huge tsize": {"tsize": "999999999999"},
            "wrong tsize": {"tsize": "17"},
        }
        answer: dict[str, str] = {}
        for lie in self.lies:
            answer.update(lies.get(lie, {}))
        return answer

    def _stranger(self, peer: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((self.address, 0))
            other.settimeout(2)
            other.sendto(struct.pack("!HH", 3, 1) + b"evil" * 128, peer)
            reply = other.recv(600)
            assert reply[:4] == struct.pack("!HH", 5, 5)
            self.refused_tids += 1

    def _number(self, count: int) -> int:
        if count <= 65535:
            return count
        if self.roll_to == 1:
            return (count - 1) % 65535 + 1
        return count & 0xFFFF

    def _blocks(
        self, sock: socket.socket, peer: tuple[str, int], data: bytes, blksize: int, window: int
    ) -> None:
        endless = "endless" in self.lies
        total = 1 << 40 if endless else len(data) // blksize + 1
        done = 0
        while done < total:
            batch = []
            for count in range(done + 1, min(done + window, total) + 1):
                chunk = data[(count - 1) * blksize : count * blksize]
                if endless:
                    chunk = b"e" * blksize
                if "oversize" in self.lies and count == 2:
                    chunk += b"x" * 300
                batch.append(struct.pack("!HH", 3, self._number(count)) + chunk)
            if "drip" in self.lies:
                time.sleep(0.4)
            if "vanish" in self.lies and done:
                return
            acked = self._until_ack(sock, peer, batch, self._number(done + len(batch)))
            if acked is None or acked is False:
                return
            done += acked if isinstance(acked, int) and acked is not True else len(batch)

    def _until_ack(
        self, sock: socket.socket, peer: tuple[str, int], batch: list[bytes], wanted: int
    ) -> int | bool | None:
        """Send and resend until acknowledged: the count of blocks acknowledged, False: given up."""
        numbers = [struct.unpack_from("!H", packet, 2)[0] for packet in batch]
        for _ in range(30):
            if self._stop:
                return False
            for packet in batch:
                self._send(sock, packet, peer)
            try:
                while True:
                    reply, _ = sock.recvfrom(600)
                    opcode, number = struct.unpack_from("!HH", reply)
                    if opcode == 5:
                        return False
                    if number == wanted:
                        return len(batch)
                    if number in numbers:
                        return numbers.index(number) + 1
            except TimeoutError:
                continue
        return False
