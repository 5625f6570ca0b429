"""Hosts on one machine: network namespaces with a firewall between them, and an eye on every packet that leaves one.

    hungary ------+
                  firewall ------ wide ------ datacentre
    switzerland --+

Every host is a namespace of its own. The firewall forwards one TCP port (of rules of routing, which every kernel with
namespaces has: so it keeps no state, and knows an answer by its source port alone). `wide` is everything between a
hospital's firewall and the datacentre: it forwards no packet, so that what crosses it crosses a relay (`relay`), which
is where sites believe the coordinator to be.

Invariant: a namespace lives as long as this process has it open, or a process runs in it. None has a name, so none
is left behind, however this process ends.
"""

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HOSPITALS = {"hungary": "10.77.1.2", "switzerland": "10.77.2.2"}
WIDE, DATACENTRE = "10.77.3.2", "10.77.4.2"
LINK, ENROLMENT = 7443, 7444

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL, _ETH_P_IP, _ETH_P_ARP = 0x0003, 0x0800, 0x0806
_PACKET_OUTGOING = 4
_TCP, _SYN, _ACK = 6, 0x02, 0x10


def _checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _in_a_thread(enter, work):
    """Call `work` in a thread that has called `enter`: a namespace is entered by threads, not by processes."""
    ended = []

    def run():
        try:
            _checked(enter())
            ended.append((work(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = ended[0]
    if error is not None:
        raise error
    return result


class Host:
    """A namespace of its own, with its loopback up and without IPv6."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = _in_a_thread(
            lambda: libc.unshare(_CLONE_NEWNET), lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        )
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self.set("net/ipv6/conf/all/disable_ipv6", 1)
        self.set("net/ipv6/conf/default/disable_ipv6", 1)
        self.ip("link set lo up")

    def inside(self, work):
        """Call `work` inside and return what it returns; a socket made there stays there."""
        libc = ctypes.CDLL(None, use_errno=True)
        return _in_a_thread(lambda: libc.setns(self._descriptor, _CLONE_NEWNET), work)

    def command(self, command):
        """Return the command that runs a command inside."""
        return ["nsenter", f"--net={self.path}", *command]

    def ip(self, *commands):
        subprocess.run(self.command(["ip", "-batch", "-"]), input="\n".join(commands), text=True, check=True)

    def set(self, name, value):
        self.inside(lambda: (Path("/proc/sys") / name).write_text(f"{value}\n"))

    def listen(self, port, kind=socket.SOCK_STREAM):
        """Return a socket that is bound to a port on every address of this host, and listens if it is TCP."""

        def bound():
            made = socket.socket(socket.AF_INET, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("0.0.0.0", port))  # noqa: S104 - all that this namespace has
            if kind == socket.SOCK_STREAM:
                made.listen()
            return made

        return self.inside(bound)

    def close(self):
        os.close(self._descriptor)


class Network:
    """All hosts and their lines; the firewall lets one port through."""

    def __init__(self):
        self.firewall, self.wide, self.datacentre = Host(), Host(), Host()
        self.hospitals = {name: Host() for name in HOSPITALS}
        for name, address in (*HOSPITALS.items(), ("wide", WIDE)):
            self._line(self.firewall, name, self.wide if name == "wide" else self.hospitals[name], address)
        self._line(self.wide, "datacentre", self.datacentre, DATACENTRE)
        for name, host in self.hospitals.items():
            host.ip(f"route add default via {_neighbour(HOSPITALS[name])}")
        self.wide.ip(f"route add 10.77.0.0/16 via {_neighbour(WIDE)}")
        self.datacentre.ip(f"route add default via {_neighbour(DATACENTRE)}")
        # `wide` leaves net.ipv4.ip_forward at 0.
        self.firewall.ip("rule add pref 50 iif lo lookup main", "rule add pref 200 prohibit")
        self.firewall.set("net/ipv4/ip_forward", 1)
        self.allow(LINK)

    def allow(self, port, verb="add"):
        """Let hospitals reach this port of the coordinator's address, and its answers reach them."""
        outwards = [
            f"rule {verb} pref 100 iif {name} to {WIDE} ipproto tcp dport {port} lookup main" for name in HOSPITALS
        ]
        self.firewall.ip(*outwards, f"rule {verb} pref 101 iif wide from {WIDE} ipproto tcp sport {port} lookup main")

    def forbid(self, port):
        """Shut it again."""
        self.allow(port, "del")

    def swallow(self, hospital, verb="add"):
        """Drop every packet from and to a hospital without a word."""
        address = HOSPITALS[hospital]
        self.firewall.ip(
            f"rule {verb} pref 10 iif {hospital} blackhole", f"rule {verb} pref 11 iif wide to {address} blackhole"
        )

    def restore(self, hospital):
        """Let packets through again."""
        self.swallow(hospital, "del")

    def close(self):
        for host in (*self.hospitals.values(), self.firewall, self.wide, self.datacentre):
            host.close()

    @staticmethod
    def _line(near, name, far, address):
        near.ip(
            f"link add {name} type veth peer name line netns {far.path}",
            f"addr add {_neighbour(address)}/24 dev {name}",
            f"link set {name} up",
        )
        far.ip(f"addr add {address}/24 dev line", "link set line up")


def _neighbour(address):
    return address.rpartition(".")[0] + ".1"


class Packet(NamedTuple):
    """What is counted of a packet; `opens` if it is a TCP connection's first."""

    source: str
    destination: str
    protocol: int
    source_port: int
    port: int
    opens: bool


class Eye:
    """Counts every packet that comes in over lines of hosts, that is: that left the host at the other end.

    Args:
        lines: hosts with the name of the line that is looked at there.
    """

    def __init__(self, *lines):
        self.seen, self.strange = Counter(), Counter()
        self._sockets = [host.inside(lambda name=name: _packets_of(name)) for host, name in lines]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _look(self):
        while not self._ended.is_set():
            for ready in select.select(self._sockets, [], [], 0.1)[0]:
                data, (_, protocol, direction, *_) = ready.recvfrom(128)
                if direction == _PACKET_OUTGOING or protocol == _ETH_P_ARP:
                    continue
                if protocol == _ETH_P_IP:
                    self.seen[_packet(data)] += 1
                else:
                    self.strange[protocol] += 1


def _packets_of(name):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    made.bind((name, _ETH_P_ALL))
    return made


def _packet(data):
    """Read a packet's IPv4 header and its ports; RFC 791, RFC 9293."""
    length, protocol = 4 * (data[0] & 0x0F), data[9]
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    if protocol not in (_TCP, socket.IPPROTO_UDP):
        return Packet(source, destination, protocol, 0, 0, opens=False)
    ports = struct.unpack_from("!HH", data, length)
    opens = protocol == _TCP and data[length + 13] & (_SYN | _ACK) == _SYN
    return Packet(source, destination, protocol, *ports, opens=opens)
