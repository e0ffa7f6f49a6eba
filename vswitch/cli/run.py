# SPDX-License-Identifier: Apache-2.0
"""`vswitch run`, `start`, `exec`: programs in namespaces that vswitch makes.

The namespaces are made here, by this process, with the caller's rights; the switch gets descriptors, answers
with addresses and the files for /etc, and only then the program begins. Whatever fails on the way leaves
nothing behind: leaving `prepare` ends the namespaces, and the container is taken out of the switch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from vswitch.cli.attach import hand_over
from vswitch.cli.each import each
from vswitch.cli.habits import docker_habits, refuse_image
from vswitch.cli.options import attachment_options, client_command, environment, network_words, pairs, repeated
from vswitch.cli.refusals import as_client_errors, failing_with
from vswitch.control.api.client import Client, ClientError, segment

if TYPE_CHECKING:
    from vswitch.container.files import Files
    from vswitch.container.isolate import Shared

FAILED = 125  # vswitch itself failed; 126 and 127 are the program's: can't be run, can't be found
OF_SERVICE_MANAGERS = (
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
ID_LENGTH = 64
PROGRAM = {"allow_interspersed_args": False}


def program_options(function: Callable) -> Callable:
    """How a program is run, with `run` and `exec` alike."""
    function = click.option("-w", "--workdir", metavar="DIR", help="Run the program in this folder.")(
        function
    )
    return repeated(
        "-e", "--env", "variables", metavar="K[=V]", help="Set a variable; without =V, as it is here."
    )(function)


@client_command("run", context_settings=PROGRAM)
@click.option("--name", metavar="N", help="The container's name (default: one is made up).")
@attachment_options
@click.option("-h", "--hostname", metavar="H", help="Its host name (default: the first 12 digits of its id).")
@repeated("--dns", metavar="A", help="A resolver for resolv.conf; repeatable.")
@repeated("--dns-search", metavar="D", help="A search domain for resolv.conf; repeatable.")
@repeated("--dns-option", "dns_options", metavar="O", help="An option for resolv.conf; repeatable.")
@repeated("--add-host", "extra_hosts", metavar="H:A", help="A line for /etc/hosts; repeatable.")
@click.option(
    "-d", "--detach", "detached", is_flag=True, help="In the background; its output goes to `vswitch logs`."
)
@program_options
@docker_habits
@repeated("--cap-add", metavar="CAP", help="Give the program a capability; repeatable.")
@repeated("--cap-drop", metavar="CAP", help="Take a capability from it; repeatable.")
@repeated("--label", "-l", "labels", metavar="K=V", help="A note on the container; repeatable.")
@click.option("--standalone", is_flag=True, help="With a private switch, for this command's lifetime.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def run_command(
    client: Client, command: tuple[str, ...], detached: bool, standalone: bool, **words: Any
) -> int:
    """Run COMMAND in namespaces of its own, attached to networks.

    --network host is without a network namespace of its own, none has nothing in it but lo, container:NAME shares that
    container's.

    Without -d the exit status is the program's own: 125 if vswitch failed, 126 if the program can't be run,
    127 if there is none.
    """
    if standalone and detached:
        raise click.UsageError(
            "--standalone ends with this command: leave out -d, or start a switch with vswitch-run"
        )
    spec = _spec(command=list(command), detached=detached, **words)
    if spec.get("network_mode") == "host" and spec["hostname"] is None:
        spec["hostname"] = os.uname().nodename
    refuse_image(spec["command"], spec["environment"], spec["workdir"])
    with failing_with(FAILED), ExitStack() as until_end:
        if standalone:
            from vswitch.cli.standalone import private_switch

            client = Client(until_end.enter_context(private_switch()))
        client.get("/v1/version")  # says how to start a switch, before anything is made
        return run_container(client, spec)


def _spec(
    *,
    networks: tuple[str, ...],
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    aliases: tuple[str, ...],
    source_guard: bool,
    variables: tuple[str, ...],
    workdir: str | None,
    labels: tuple[str, ...],
    **plain: Any,
) -> dict[str, Any]:
    """The ContainerSpec of the words; the folder is where we are, unless -w says another."""
    return {
        **network_words(networks, ip, ip6, mac_address, aliases, source_guard),
        "environment": environment(variables),
        "workdir": os.path.abspath(workdir or "."),
        "labels": pairs("--label", labels),
        **plain,
    }


def run_container(client: Client, spec: dict[str, Any], tell: Callable[[str], None] = print) -> int:
    """A new container; of a detached one that runs, `tell` gets the id. The status as of `_run`."""
    return _run(
        client, spec, lambda place: client.post("/v1/containers", {"spec": spec, **place}), _forgetting(client), tell
    )


def _run(
    client: Client,
    spec: dict[str, Any],
    register: Callable[[dict[str, Any]], dict[str, Any]],
    undo: Callable[[str], None],
    tell: Callable[[str], None],
) -> int:
    """Make the namespaces, register them, run the program.

    Returns its exit status, or 0 for a detached one that runs, whose id `tell` gets. `undo(id)` takes what was
    registered out of the switch if the program does not come to run.
    """
    from vswitch.container import capabilities
    from vswitch.container.launch import prepare

    def report(identity: str, exit_code: int) -> None:
        client.post(f"/v1/containers/{identity}/exit", {"exit_code": exit_code})

    keep = capabilities.wanted(spec["cap_add"], spec["cap_drop"])
    with (
        shared_network(client, spec) as shared,
        prepare(detached=spec["detached"], on_exit=report, shared=shared) as prepared,
    ):
        place = hand_over(client, prepared.origin, prepared.netns_fd, prepared.userns_fd, prepared.pidfd)
        attached = register(place)
        container = attached["container"]
        try:
            status = prepared.go(
                spec["command"],
                env=_inherited_environment() | spec["environment"],
                files=_files(spec, attached),
                hostname=container["hostname"],
                workdir=spec["workdir"],
                capabilities=keep,
                tag=container["id"],
                log_path=attached["log_path"],
            )
        except BaseException:
            undo(container["id"])
            raise
    if spec["detached"] and status == 0:
        tell(container["id"])
    elif spec["detached"]:
        undo(container["id"])
    return status


def _files(spec: dict[str, Any], attached: dict[str, Any]) -> Files:
    """What the switch says; with the host's network, what the host has where we are."""
    from vswitch.container import files

    if spec.get("network_mode") != "host":
        return files.Files(**attached["files"])
    resolver = {name: spec[name] for name in ("dns", "dns_search", "dns_options", "extra_hosts")}
    return files.beside_the_host(
        attached["container"]["hostname"],
        host_resolv_conf=_text("/etc/resolv.conf"),
        host_hosts=_text("/etc/hosts"),
        **resolver,
    )


def _text(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


@contextmanager
def shared_network(client: Client, spec: dict[str, Any]) -> Iterator[Shared | None]:
    """The network namespace that is there already, as --network host or container:NAME says; else None."""
    mode = spec.get("network_mode", "bridge")
    if mode in ("bridge", "none"):
        yield None
        return
    from vswitch.container import namespaces
    from vswitch.container.isolate import Shared

    if mode == "host":
        yield Shared()
        return
    netns = _others_namespace(client, mode.removeprefix("container:"))
    found = Shared(netns, namespaces.owner_userns(netns))
    try:
        yield found
    finally:
        for fd in found:
            if fd is not None:
                os.close(fd)


def _others_namespace(client: Client, name: str) -> int:
    """A descriptor of a running container's network namespace, opened with our own rights."""
    from vswitch.container import namespaces

    try:
        other = client.get(f"/v1/containers/{segment(name)}")
    except ClientError as refusal:
        if refusal.status == 404 and len(name) == ID_LENGTH:  # as it was kept, not as somebody typed it
            raise ClientError("the container whose network it shares is gone: run this one anew") from None
        raise
    if other["state"] not in ("running", "orphaned") or other["netns"] is None:
        raise ClientError(
            f"container {other['name']} is {other['state']}: its network can only be shared while it runs;"
            f" `vswitch start {other['name']}` first"
        )
    return namespaces.open_netns(other["netns"])


def _inherited_environment() -> dict[str, str]:
    """Ours, without what a service manager said to us alone."""
    return {name: value for name, value in os.environ.items() if name not in OF_SERVICE_MANAGERS}


def _forgetting(client: Client) -> Callable[[str], None]:
    """Takes a new container out of the switch again; it may be out already."""

    def forget(identity: str) -> None:
        try:
            client.delete(f"/v1/containers/{identity}", force=1)
        except ClientError:
            pass

    return forget


@client_command("start")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def start_command(client: Client, names: tuple[str, ...]) -> int:
    """Start stopped containers again, in the background.

    They get the addresses they had.
    """
    statuses, refused = each(names, lambda name: start_container(client, name, lambda _: print(name)))
    return refused or int(any(statuses))


def start_container(client: Client, name: str, tell: Callable[[str], None] = print) -> int:
    """The container's program runs again: 0, and `tell` gets its id.

    If it cannot be run, that has been said, and the container is stopped as before.
    """
    path = f"/v1/containers/{segment(name)}"
    spec = client.get(f"{path}/spec")
    if spec["command"] is None:
        raise ClientError(
            f"container {name} was attached, not run: attach its namespace again with `vswitch attach`"
        )
    with as_client_errors():
        return _run(
            client,
            spec | {"detached": True},
            lambda place: client.post(f"{path}/start", place),
            lambda identity: None,
            tell,
        )


@client_command("exec", context_settings=PROGRAM)
@program_options
@click.option("-i", "--interactive", is_flag=True, expose_value=False, help="Give it stdin, as happens anyway.")
@click.option("-t", "--tty", is_flag=True, expose_value=False, help="Give it the terminal, as happens anyway.")
@click.argument("name", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def exec_command(
    client: Client, name: str, command: tuple[str, ...], variables: tuple[str, ...], workdir: str | None
) -> int:
    """Run another program in a container.

    The exit status is the program's, 125 if vswitch failed.
    """
    command = command[command[0] == "--" :]
    if not command:
        raise click.UsageError("missing argument '[--] COMMAND...'")
    with failing_with(FAILED):
        container = client.get(f"/v1/containers/{segment(name)}")
        if container["state"] != "running":
            start = f": `vswitch start {name}` first" if container["state"] == "exited" else ""
            raise ClientError(f"container {name} is not running ({container['state']}){start}")
        spec = client.get(f"/v1/containers/{container['id']}/spec")
        return _exec(container, spec, list(command), environment(variables), workdir)


def _exec(
    container: dict[str, Any],
    spec: dict[str, Any],
    command: list[str],
    variables: dict[str, str],
    workdir: str | None,
) -> int:
    """In every namespace of a container that we made.

    In the network namespace only of one that was attached.
    """
    from vswitch.container import capabilities
    from vswitch.container.join import exec_in

    inherited = _inherited_environment()
    if container["command"] is None:
        where = container["netns"] or f"/proc/{container['pid']}/ns/net"
        return exec_in(where, command, env=inherited | variables, workdir=workdir)
    own = {"HOSTNAME": container["hostname"]} | spec["environment"]
    keep = capabilities.wanted(spec["cap_add"], spec["cap_drop"])
    folder = workdir or spec["workdir"]
    return exec_in(
        container["pid"], command, env=inherited | own | variables, workdir=folder, capabilities=keep
    )
