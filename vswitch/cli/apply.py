# SPDX-License-Identifier: Apache-2.0
"""`vswitch apply FILE`: networks and containers as a file describes them (vswitch/project/ has what it may say).

The file is read, the switch is asked what there is, and the steps between the two are shown and done one by one. A step
that is refused ends it: what was done before stays, and applying again goes on from there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vswitch.cli.attach import Place, attach_place
from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import emit_json, printable
from vswitch.cli.refusals import as_client_errors
from vswitch.cli.run import run_container, start_container
from vswitch.control.api.client import Client, ClientError, segment
from vswitch.model import Refused

if TYPE_CHECKING:
    from vswitch.project.plan import Action, Plan, State
    from vswitch.project.wish import Project, ServiceWish

IGNORED_SHOWN = 20
ENV_FILE = ".env"
RUN_WORDS: dict[str, Any] = {
    "environment": {}, "cap_add": [], "cap_drop": [], "dns": [], "dns_search": [], "dns_options": [], "extra_hosts": [],
    "ports": [],
}  # fmt: skip


@client_command("apply")
@click.argument("file", metavar="FILE")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option(
    "--prune", "--remove-orphans", is_flag=True, help="Remove what is the project's and not in the file any more."
)
@click.option("-p", "--project-name", metavar="N", help="The project's name (default: the file's, or its folder's).")
@json_or_template("--format", field="project")
def apply_command(
    client: Client, file: str, dry_run: bool, prune: bool, project_name: str | None, as_json: bool
) -> None:
    """Bring about what FILE describes.

    It describes networks and how containers are on them, and is a compose file (.yaml, .yml) or our own TOML. What is
    so already is left alone; images, volumes and the like are not done, and said to be ignored.
    """
    from vswitch.project.plan import plan

    with as_client_errors():
        with _of_file(file):
            project = _project(file, project_name)
        state = _state(client, project)
        with _of_file(file):
            wanted = plan(project, state, prune=prune)
            _refuse_programs(wanted)
        if as_json:
            emit_json(_as_json(project, wanted))
        else:
            _say(project, wanted, prune)
        say = (lambda line: None) if as_json else print
        if dry_run:
            for action in wanted.actions:
                say(printable(action.text))
        else:
            _carry_out(client, project, wanted, say)
        if not wanted.actions:
            say(printable(_at_rest(project, wanted)))


# ---- the file


@contextmanager
def _of_file(path: str) -> Iterator[None]:
    """What is refused has the file's name before it."""
    try:
        yield
    except Refused as refusal:
        place = "" if str(refusal)[:1].isdigit() else " "
        raise ClientError(printable(f"{path}:{place}{refusal}")) from None


def _project(path: str, name: str | None) -> Project:
    from vswitch.project import compose, documents, own, wish

    folder = os.path.dirname(os.path.abspath(path))
    otherwise = wish.project_name(os.environ.get("COMPOSE_PROJECT_NAME") or os.path.basename(folder)) or "project"
    if path.endswith(".toml"):
        return _settled(own.read(documents.from_toml(_text(path)), name, otherwise), folder)
    if path.endswith((".yaml", ".yml")):
        return _settled(_compose(compose, documents, path, folder, name, otherwise), folder)
    raise Refused("should be a compose file (.yaml, .yml) or our own TOML (.toml)")


def _compose(compose: Any, documents: Any, path: str, folder: str, name: str | None, otherwise: str) -> Project:
    from msgspec.structs import replace

    from vswitch.project.variables import Variables, parse_env

    env_file = os.path.join(folder, ENV_FILE)
    variables = Variables({**(parse_env(_text(env_file)) if os.path.isfile(env_file) else {}), **os.environ})
    project = compose.read(documents.from_yaml(_text(path), variables.expand), name, otherwise)
    unset = tuple(f"variable {variable} (it is not set)" for variable in sorted(variables.missing))
    return replace(project, ignored=project.ignored + unset)


def _text(path: str) -> str:
    from vswitch.project.documents import SIZE_LIMIT_BYTES

    with open(path, "rb") as file:
        content = file.read(SIZE_LIMIT_BYTES + 1)
    if len(content) > SIZE_LIMIT_BYTES:
        raise Refused(f"larger than {SIZE_LIMIT_BYTES // 1024} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refused(f"no UTF-8 text (byte {error.start})") from None


def _settled(project: Project, folder: str) -> Project:
    """With folders and variables of programs as they are here: `vswitch run` would take them from the caller too."""
    from msgspec.structs import replace

    def settle(service: ServiceWish) -> ServiceWish:
        if service.how != "run":
            return service
        spec = dict(service.spec)
        passed = {name: os.environ[name] for name in spec.pop("passed", ()) if name in os.environ}
        spec["environment"] = {**spec.get("environment", {}), **passed}
        spec["workdir"] = os.path.normpath(os.path.join(folder, spec.get("workdir", ".")))
        return replace(service, spec=spec)

    return replace(project, services=tuple(map(settle, project.services)))


def _refuse_programs(wanted: Plan) -> None:
    """What cannot be run here is refused before anything is done."""
    from vswitch.container import capabilities, program

    for action in wanted.actions:
        if action.verb == "run":
            spec = {**RUN_WORDS, "workdir": os.getcwd(), **action.spec}
            try:
                capabilities.wanted(spec["cap_add"], spec["cap_drop"])
                program.refuse_missing(spec["command"][0], {**os.environ, **spec["environment"]}, spec["workdir"])
            except Refused as refusal:
                raise Refused(f"{action.where}: {refusal}") from None


# ---- what there is


def _state(client: Client, project: Project) -> State:
    """Networks and containers at the switch; engines are only asked for what is missing."""
    from vswitch.project.plan import Held, State
    from vswitch.project.wish import PROJECT_LABEL

    named = {name for service in project.services for name in service.names}
    containers, ports = {}, {}
    for view in client.get("/v1/containers", all=1):
        ports[view["name"]] = view["ports"]
        if view["name"] in named or view["labels"].get(PROJECT_LABEL) == project.name:
            containers[view["name"]] = Held(view, client.get(f"/v1/containers/{view['id']}/spec"))
    networks = {view["name"]: view for view in client.get("/v1/networks")}
    missing = [s for s in project.services if s.how == "there" and not any(name in containers for name in s.names)]
    engines: dict[str, tuple[str, str]] = {}
    troubles: dict[str, str] = {}
    for service in missing:
        _ask_engines(service, engines, troubles)
    return State(networks, containers, engines, troubles, ports)


def _ask_engines(service: ServiceWish, engines: dict[str, tuple[str, str]], troubles: dict[str, str]) -> None:
    """The engine that has a running container without a network for a service, and its name there; or that it has to be
    started first.
    """
    from vswitch.cli.engines import Stopped, find

    for name in service.names:
        try:
            found = find(name)
        except Stopped as stopped:
            troubles.setdefault(service.key, str(stopped))
        except ClientError:
            continue
        else:
            if found.network_mode == "none":  # one with a network of the engine's has its default route there
                engines[service.key] = found.engine, name
                return


# ---- shown and done


def _say(project: Project, wanted: Plan, prune: bool) -> None:
    """What is not done: once, on stderr."""
    if project.ignored:
        shown = ", ".join(project.ignored[:IGNORED_SHOWN])
        more = len(project.ignored) - IGNORED_SHOWN
        _note(f"ignored, vswitch does not do it: {shown}{f' and {more} more' if more > 0 else ''}")
    for line in wanted.waiting:
        _note(f"waiting for {line}")
    if wanted.left and prune:  # whatever could be removed is
        _note(f"not in the file any more, but not removed: {', '.join(wanted.left)}")
    elif wanted.left:
        _note(f"not in the file any more: {', '.join(wanted.left)}; --prune removes them")


def _at_rest(project: Project, wanted: Plan) -> str:
    """What is so where there is nothing to do."""
    if not wanted.waiting:
        return f"project {project.name} is as the file says"
    keys = [line.partition(":")[0] for line in wanted.waiting]
    return f"project {project.name}: nothing to do, but waiting for {', '.join(keys)}"


def _note(text: str) -> None:
    print(printable(f"vswitch: {text}"), file=sys.stderr)


def _as_json(project: Project, wanted: Plan) -> dict[str, Any]:
    actions = [{"verb": a.verb, "what": a.what, "name": a.name, "why": a.why, "spec": a.spec} for a in wanted.actions]
    return {
        "project": project.name,
        "actions": actions,
        "waiting": list(wanted.waiting),
        "left": list(wanted.left),
        "ignored": list(project.ignored),
    }


def _carry_out(client: Client, project: Project, wanted: Plan, say: Callable[[str], None]) -> None:
    for action in wanted.actions:
        try:
            _do(client, action)
        except (Refused, ClientError) as refusal:
            changed = _changed_meanwhile(client, project, action, refusal.status)
            why = "changed meanwhile by somebody else: run vswitch apply again" if changed else refusal
            raise ClientError(f"{action.verb} {action.what} {action.name}: {why}") from None
        say(printable(action.text))
        sys.stdout.flush()


def _changed_meanwhile(client: Client, project: Project, action: Action, status: int) -> bool:
    """Whether a step is refused because what it is about has come or gone since it was planned, as when the same file
    is applied twice at once.
    """
    from vswitch.project.wish import PROJECT_LABEL

    comes = action.verb in ("create", "run", "attach")
    if status != 409:
        return status == 404 and not comes
    try:
        view = client.get(f"/v1/{action.what}s/{segment(action.name)}")
    except ClientError:
        return action.verb == "create"  # it is only being made
    if comes:
        return view["labels"].get(PROJECT_LABEL) == project.name
    if action.verb in ("connect", "disconnect"):
        return (action.spec["network"] in {e["name"] for e in view["networks"]}) == (action.verb == "connect")
    return action.verb == "start" and view["state"] != "exited"


def _do(client: Client, action: Action) -> None:
    target = f"/v1/{action.what}s/{segment(action.name)}"
    if action.verb == "create":
        client.post("/v1/networks", action.spec)
    elif action.verb == "update":
        client.request("PATCH", target, action.spec, {})
    elif action.verb in ("connect", "disconnect"):
        network = action.spec["network"]
        body = {name: value for name, value in action.spec.items() if name != "network"}
        client.post(f"/v1/networks/{segment(network)}/{action.verb}", body)
    elif action.verb == "remove" and action.what == "network":
        client.delete(target)
    elif action.verb == "remove":
        client.delete(target, force=1)
    elif action.verb == "run":
        spec = {**RUN_WORDS, "hostname": None, "workdir": os.getcwd(), **action.spec, "detached": True}
        _succeed(run_container(client, spec, _unheard))
    elif action.verb == "start":
        _succeed(start_container(client, action.name, _unheard))
    elif action.verb == "attach":
        attach_place(client, action.spec, _place(action))
    elif action.verb == "publish":
        client.post(f"{target}/ports", action.spec)
    elif action.verb == "unpublish":
        client.delete(f"{target}/ports", **action.spec)
    else:
        client.post(f"{target}/detach")


def _unheard(identity: str) -> None:
    """Ids are not shown: the step's line names the container."""


def _succeed(status: int) -> None:
    if status:
        raise ClientError(f"its program could not be run (status {status})")


def _place(action: Action) -> Place:
    if action.how == "pid":
        return Place(pid=int(action.place))
    if action.how == "netns":
        return Place(netns=action.place)
    from vswitch.cli.engines import find

    return Place(engine_container=find(action.place, action.how))
