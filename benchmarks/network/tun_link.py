"""A network line of packets between two network namespaces, limited and delayed in user space.

TCP runs across it from end to end, so that slow starts and windows are in what is measured; lost
packets are not, since its queue has no end. Linux only, and only root may make one. It stands in
for `tc netem`, which not every kernel has.

Packets that the kernel did not cut into segments (TSO) pass as they are, with the virtio header
that says how they are to be cut; the segments and acknowledgements of TCP are those of an MTU of
1500 bytes.
"""

from __future__ import annotations

import fcntl
import os
import queue
import struct
import subprocess
import threading
import time

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_CHECKSUM, _TSO4 = 0x01, 0x02
_VIRTIO_BYTES, _LARGEST_BYTES = 10, 65536 + 64
_SUBNET = "10.77.0"


class TunLink:
    """Two namespaces, `namespaces`, with a line between `addresses`. Unshaped at first.

    Args:
        tag: a short text that tells its names from those of another one.
    """

    def __init__(self, tag: str) -> None:
        self.namespaces = (f"amaqctl-{tag}-0", f"amaqctl-{tag}-1")
        self.addresses = (f"{_SUBNET}.1", f"{_SUBNET}.2")
        self._one_way_seconds, self._bits_per_second = 0.0, 0.0
        self._is_closed = False
        devices = [f"tun{tag}{end}" for end in range(2)]
        self._files = [_device(name) for name in devices]
        for end, (namespace, device) in enumerate(zip(self.namespaces, devices, strict=True)):
            near, far = self.addresses[end], self.addresses[1 - end]
            _ip("netns", "add", namespace)
            _ip("link", "set", device, "txqueuelen", "10000", "netns", namespace)
            _ip("-n", namespace, "address", "add", near, "peer", far, "dev", device)
            _ip("-n", namespace, "link", "set", device, "mtu", "1500", "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
        for source, target in (self._files, self._files[::-1]):
            waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            for work, file in ((self._take, source), (self._give, target)):
                threading.Thread(target=work, args=(file, waiting), daemon=True).start()

    def shape(self, one_way_seconds: float, bits_per_second: float) -> None:
        """From now on delay and limit each direction; 0 bits a second mean no limit."""
        self._one_way_seconds, self._bits_per_second = one_way_seconds, bits_per_second

    def close(self) -> None:
        """Take both namespaces away, and the line with them."""
        self._is_closed = True
        for namespace in self.namespaces:
            _ip("netns", "delete", namespace)
        for file in self._files:
            os.close(file)

    def _take(self, source: int, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        free_at = 0.0
        while True:
            try:
                packet = os.read(source, _LARGEST_BYTES)
            except OSError:
                if self._is_closed:
                    return
                raise
            rate = self._bits_per_second
            seconds = 8 * (len(packet) - _VIRTIO_BYTES) / rate if rate else 0.0
            free_at = max(free_at, time.perf_counter()) + seconds
            waiting.put((free_at + self._one_way_seconds, packet))

    def _give(self, target: int, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            due, packet = waiting.get()
            if (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            try:
                os.write(target, packet)
            except OSError:
                if self._is_closed:
                    return


def _device(name: str) -> int:
    file = os.open("/dev/net/tun", os.O_RDWR)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH14x", name.encode(), flags))
    fcntl.ioctl(file, _TUNSETOFFLOAD, _CHECKSUM | _TSO4)
    return file


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
