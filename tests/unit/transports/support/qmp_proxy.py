#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU as libvirt starts it, and somebody between the two on its monitor.

What is written into the FIFO /run/tiny/NAME.events goes to libvirt as if QEMU
had said it: events that need hardware which is broken.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import sys

QEMU = "/usr/bin/qemu-system-x86_64"
MONITOR = re.compile(r"socket,id=charmonitor,fd=(\d+),server=on,wait=off")


def main() -> None:
    words = [QEMU, *sys.argv[1:]]
    found = [(at, match) for at, word in enumerate(words) if (match := MONITOR.fullmatch(word))]
    if found:  # else libvirt only asks what it can do
        ((at, match),) = found
        ours, qemus = socket.socketpair()
        if os.fork() == 0:
            qemus.close()
            name = words[words.index("-name") + 1].split(",")[0].removeprefix("guest=")
            between(socket.socket(fileno=int(match[1])), ours, f"/run/tiny/{name}.events")
            os._exit(0)
        ours.close()
        os.set_inheritable(qemus.fileno(), True)
        words[at] = f"socket,id=charmonitor,fd={qemus.fileno()}"
    os.execv(QEMU, words)


def between(listener: socket.socket, qemu: socket.socket, path: str) -> None:
    """Until one of them has gone."""
    os.mkfifo(path, 0o666)
    os.chmod(path, 0o666)
    fifo = os.open(path, os.O_RDWR)
    libvirt, _ = listener.accept()
    said = {qemu.fileno(): b"", fifo: b""}
    with selectors.DefaultSelector() as selector:
        for descriptor in (qemu.fileno(), libvirt.fileno(), fifo):
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if not data:
                    return
                if key.fd == libvirt.fileno():
                    qemu.sendall(data)
                    continue
                # One message is a line.
                whole, end, said[key.fd] = (said[key.fd] + data).rpartition(b"\n")
                libvirt.sendall(whole + end)


if __name__ == "__main__":
    main()
