# SPDX-License-Identifier: Apache-2.0
"""What crosses the API besides the nouns of vswitch.model: queries, bodies of requests, a few small answers.

Everything that comes from outside is a `Spec`: an unknown field or a wrong type is refused.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from vswitch.model import AttachmentSpec, ContainerSpec, FlowFilter, NamespaceOrigin, Spec

API = 1
STOP_TIMEOUT_S = 10.0


class Context(Struct):
    """What handlers act on.

    The switch, its captures, the descriptors that clients sent ahead, and what /version says.
    """

    switch: Any
    captures: Any
    tokens: Any
    started: str
    state_dir: str


class Call(Struct):
    """One decoded request: `names` are the path's variables in order."""

    context: Context
    names: tuple[str, ...]
    query: Any
    body: Any

    @property
    def switch(self) -> Any:
        return self.context.switch


class VersionView(Struct):
    version: str
    api: int
    pid: int
    uid: int
    started: str
    state_dir: str


class Nothing(Spec):
    """A query or body that holds nothing."""


class ContainerList(Spec):
    all: bool = False


class TableFilter(Spec):
    """Rows of one network, of one container, or of both."""

    network: str | None = None
    container: str | None = None


class EventQuery(Spec):
    """`flows`: connections through the gateway too."""

    flows: bool = False


class NewPort(Spec):
    """`publish` as for `-p`: [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|udp|tcp+udp], ranges too."""

    publish: str


class PortRemoval(Spec):
    """`publish` as it was published; what it leaves out of the host's side matches anything."""

    publish: str


class FlowKill(FlowFilter):
    """Which flows to end; `all` is needed where nothing else is said."""

    all: bool = False


class Connection(AttachmentSpec, kw_only=True):
    """Which container joins the network in the path, and how; `network` is not said twice."""

    container: str


class Disconnection(Spec):
    """Which container leaves the network in the path."""

    container: str


class Removal(Spec):
    force: bool = False


class LogQuery(Spec):
    """`tail`: only so many last lines of what there is."""

    follow: bool = False
    tail: Annotated[int, Meta(ge=0)] | None = None


class Namespace(Spec, kw_only=True):
    """A network namespace that the client opened with its own rights and sent under `token` on SOCKET.fd: the
    descriptors are its netns, then its user namespace if `has_userns`, then a pidfd if `has_pidfd`."""

    origin: NamespaceOrigin
    token: str
    has_userns: bool = False
    has_pidfd: bool = False


class NewContainer(Namespace, kw_only=True):
    spec: ContainerSpec


class Stop(Spec):
    """`timeout`: seconds between SIGTERM and SIGKILL."""

    timeout: float = STOP_TIMEOUT_S


class SignalSpec(Spec):
    """`signal`: its number (signal(7))."""

    signal: Annotated[int, Meta(ge=1, le=64)]


class Exit(Spec):
    exit_code: int


class CaptureSpec(Spec):
    """What to write as pcapng into the descriptor sent under `token`; empty lists mean everything.

    `snaplen` in bytes.
    """

    token: str
    networks: list[str] = []
    containers: list[str] = []
    snaplen: int = 262144


class CaptureView(Struct):
    """How far a capture is: records written, and records lost since the reader or disk was too slow.

    `trouble` with the output.
    """

    id: str
    written: int
    written_bytes: int
    dropped: int
    trouble: str | None
