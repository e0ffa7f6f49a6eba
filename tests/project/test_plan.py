# SPDX-License-Identifier: Apache-2.0
"""Plans: carried out, they lead to what the project wants, and then there is nothing left to do."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from simulated_switch import carried_out, members_shown, satisfied

from vswitch.model import Refused
from vswitch.project.plan import Held, Plan, State, plan
from vswitch.project.wish import PROJECT_LABEL, NetworkWish, Project, ServiceWish

KEYS = ("a", "b", "c")
EMPTY = State({}, {})



def networks(key: str) -> st.SearchStrategy[NetworkWish]:
    """The network of a key, with subnets that no other one has."""
    number = KEYS.index(key) + 1
    four, six = {"subnet": f"10.{number}.0.0/24"}, {"subnet": f"fd0{number}::/64"}
    settings = st.fixed_dictionaries(
        {},
        optional={
            "internal": st.booleans(),
            "mtu": st.sampled_from([1400, 9000]),
            "labels": st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2),
            "options": st.dictionaries(st.just("icc"), st.sampled_from(["true", "false"]), max_size=1),
        },
    )
    subnets = st.sampled_from([{}, {"subnets": []}, {"subnets": [four]}, {"subnets": [four, six], "ipv6": True}])
    return st.builds(lambda spec, more: NetworkWish(key, f"p_{key}", spec=spec | more), settings, subnets)


@st.composite
def services(draw: st.DrawFn, key: str, there: list[NetworkWish]) -> ServiceWish:
    """The container of a key, with addresses and host ports that no other one has."""
    number = KEYS.index(key) + 1
    how = draw(st.sampled_from(["run", "netns", "there"]))
    joined = draw(st.lists(st.sampled_from(there), unique_by=lambda n: n.key, max_size=3)) if there else []
    attachments = []
    for network in joined:
        aliases = draw(st.lists(st.sampled_from(["x", "y"]), unique=True, max_size=2))
        wish = {"network": network.name, "aliases": [key, *aliases]}
        subnets = network.spec.get("subnets")
        fixed = {"ip": subnets[0]["subnet"].replace("0/24", f"{number}9")} if subnets else {}
        attachments.append(wish | draw(st.sampled_from([{}, {}, fixed, {"mac_address": f"02:00:00:00:00:0{number}"}])))
    spec = {"networks": attachments}
    if not attachments:
        how = "run" if how == "netns" else how
        spec["network_mode"] = "none"
    elif draw(st.booleans()) and not all(network.spec.get("internal") for network in joined):
        ports = ["80", f"808{number}:80", f"5{number}:53/udp"]
        spec["ports"] = draw(st.lists(st.sampled_from(ports), unique=True, max_size=3))
    spec |= draw(
        st.fixed_dictionaries(
            {}, optional={"hostname": st.sampled_from(["h", "i"]), "extra_hosts": st.just(["d:1.2.3.4"])}
        )
    )
    if how == "run":
        spec["command"] = draw(st.sampled_from([["sleep", "9"], ["sh"]]))
    return ServiceWish(key, (f"p-{key}-1", key), how, f"/run/netns/{key}" if how == "netns" else "", spec)


@st.composite
def projects(draw: st.DrawFn) -> Project:
    wishes = [draw(networks(key)) for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=3))]
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=3))
    return Project("p", tuple(wishes), tuple(draw(services(key, wishes)) for key in keys))


@settings(max_examples=150, deadline=None)
@given(
    projects(), projects(), st.booleans(), st.booleans(), st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(KEYS))
)
def test_a_plan_that_is_carried_out_brings_about_the_project_and_leaves_nothing_to_do(
    before, project, prune, stopped, at_engines, given_before
):
    state = carried_out(plan(before, engines(EMPTY, given_before)), engines(EMPTY, given_before))
    if stopped:
        state = all_stopped(state)
    state = engines(state, at_engines)
    try:
        wanted = plan(project, state, prune=prune)
    except Refused as refusal:
        assert "containers are on it" in str(refusal) or "is internal" in str(refusal)
        return
    after = carried_out(wanted, state)
    assert satisfied(project, after, exactly=prune)
    again = plan(project, after, prune=prune)
    assert again.actions == () and again.waiting == wanted.waiting


@settings(max_examples=60, deadline=None)
@given(projects(), projects())
def test_what_the_file_does_not_name_stays_unless_asked(before, project):
    state = carried_out(plan(before, EMPTY), EMPTY)
    try:
        kept, pruned = plan(project, state), plan(project, state, prune=True)
    except Refused:
        assume(False)
    after = carried_out(kept, state)
    assert state.networks.keys() <= after.networks.keys() and state.containers.keys() <= after.containers.keys()
    for name, container in state.containers.items():
        on = {endpoint["name"] for endpoint in container.view["networks"]}
        now = after.containers[name].view
        another = (now["command"] is None) != (container.view["command"] is None) or now["network_mode"] != "bridge"
        assert another or on <= {endpoint["name"] for endpoint in now["networks"]}
    gone = carried_out(pruned, state)
    assert gone.networks.keys() == {wish.name for wish in project.networks}
    assert len(kept.left) == len(
        (state.networks.keys() | state.containers.keys()) - gone.networks.keys() - gone.containers.keys()
    )


def engines(state: State, keys: set[str]) -> State:
    """Podman has a container for these services, as far as they have none at the switch."""
    missing = {key for key in keys if f"p-{key}-1" not in state.containers}
    return replace(state, engines={key: ("podman", f"p-{key}-1") for key in missing})


def all_stopped(state: State) -> State:
    containers = {
        name: held if held.view["command"] is None else replace(held, view={**held.view, "state": "exited"})
        for name, held in state.containers.items()
    }
    return members_shown(replace(state, containers=containers))


# ---- single rules


def project(*services: ServiceWish, networks: tuple[NetworkWish, ...] = (NetworkWish("n", "p_n"),)) -> Project:
    return Project("p", networks, services)


def service(key: str = "web", how="run", **spec) -> ServiceWish:
    program = {"command": ["sh"]} if how == "run" else {}
    return ServiceWish(
        key, (f"p-{key}-1", key), how, "", {"networks": [{"network": "p_n", "aliases": [key]}], **program, **spec}
    )


def steps(wanted: Plan) -> list[str]:
    return [action.text.partition(":")[0] for action in wanted.actions]


def test_networks_come_before_containers_and_a_second_time_there_is_nothing_to_do():
    wanted = plan(project(service()), EMPTY)
    assert steps(wanted) == ["+ create network p_n", "+ run container p-web-1"]
    assert wanted.actions[1].spec["labels"] == {PROJECT_LABEL: "p", "vswitch.part": "web"}
    assert plan(project(service()), carried_out(wanted, EMPTY)).actions == ()


def test_a_port_changes_without_making_the_container_anew():
    state = carried_out(plan(project(service(ports=["8080:80"])), EMPTY), EMPTY)
    assert steps(plan(project(service(ports=["8081:80"])), state)) == ["~ publish container p-web-1"]
    assert steps(plan(project(service(ports=["8081:80"])), state, prune=True)) == [
        "~ unpublish container p-web-1",
        "~ publish container p-web-1",
    ]


def test_another_program_or_host_name_makes_the_container_anew():
    state = carried_out(plan(project(service()), EMPTY), EMPTY)
    for change in ({"command": ["true"]}, {"hostname": "h"}, {"dns": ["1.1.1.1"]}, {"environment": {"A": "1"}}):
        wanted = plan(project(service(**change)), state)
        assert steps(wanted) == ["- remove container p-web-1", "+ run container p-web-1"]
        assert next(iter(change)) in wanted.actions[0].why


def test_a_container_that_nobody_has_made_is_waited_for_and_attached_once_an_engine_has_it():
    wanted = plan(project(service(how="there")), EMPTY)
    assert steps(wanted) == ["+ create network p_n"] and "p-web-1 or web" in wanted.waiting[0]
    found = State({}, {}, {"web": ("podman", "web")})
    action = plan(project(service(how="there")), found).actions[1]
    assert (action.verb, action.how, action.place, action.name) == ("attach", "podman", "web", "p-web-1")


def test_what_is_somebody_elses_is_not_taken_over():
    ours = carried_out(plan(project(service()), EMPTY), EMPTY)
    others = replace(ours, networks={name: {**view, "labels": {}} for name, view in ours.networks.items()})
    with pytest.raises(Refused, match="network p_n exists and is not of project p"):
        plan(project(service()), others)
    (container,) = ours.containers.values()
    foreign = Held({**container.view, "labels": {}}, container.spec)
    with pytest.raises(Refused, match="container p-web-1 exists and is not of project p"):
        plan(project(service()), replace(ours, containers={"p-web-1": foreign}))


def test_an_external_network_must_be_there_and_is_not_touched():
    outside = (NetworkWish("n", "p_n", external=True),)
    with pytest.raises(Refused, match="vswitch network create p_n"):
        plan(project(networks=outside), EMPTY)
    state = carried_out(plan(project(), EMPTY), EMPTY)
    others = replace(state, networks={"p_n": {**state.networks["p_n"], "labels": {}, "internal": True}})
    assert plan(project(networks=outside), others, prune=True).actions == ()


def test_a_network_changes_with_its_containers_on_it():
    state = carried_out(plan(project(service()), EMPTY), EMPTY)
    other = (NetworkWish("n", "p_n", spec={"internal": True, "labels": {"a": "b"}, "mtu": 1400}),)
    (action,) = plan(project(service(), networks=other), state).actions
    assert action.text == "~ update network p_n: internal, mtu, labels"
    assert action.spec == {"internal": True, "mtu": 1400, "labels": {"a": "b"}}


def test_a_container_joins_and_leaves_networks_while_it_runs():
    two = (NetworkWish("n", "p_n"), NetworkWish("m", "p_m"))
    state = carried_out(plan(project(service(), networks=two), EMPTY), EMPTY)
    on_both = service(networks=[{"network": "p_n", "aliases": ["web", "www"]}, {"network": "p_m", "aliases": []}])
    assert [action.text for action in plan(project(on_both, networks=two), state).actions] == [
        "~ disconnect container p-web-1: p_n",
        "~ connect container p-web-1: p_n",
        "~ connect container p-web-1: p_m",
    ]


def test_a_network_that_the_file_does_not_name_is_left_only_when_asked():
    two = (NetworkWish("n", "p_n"), NetworkWish("m", "p_m"))
    both = [{"network": name, "aliases": ["web"]} for name in ("p_n", "p_m")]
    state = carried_out(plan(project(service(networks=both), networks=two), EMPTY), EMPTY)
    assert plan(project(service(), networks=two), state).actions == ()
    (action,) = plan(project(service(), networks=two), state, prune=True).actions
    assert action.text == "~ disconnect container p-web-1: p_m"


def test_a_container_that_is_made_anew_keeps_its_further_networks_and_ports():
    two = (NetworkWish("n", "p_n"), NetworkWish("m", "p_m"))
    both = [{"network": name, "aliases": ["web"]} for name in ("p_n", "p_m")]
    state = carried_out(plan(project(service(networks=both, ports=["80"]), networks=two), EMPTY), EMPTY)
    anew = project(service(hostname="h"), networks=two)
    assert [a["network"] for a in plan(anew, state).actions[1].spec["networks"]] == ["p_n", "p_m"]
    assert plan(anew, state).actions[1].spec["ports"] == ["80/tcp"]
    pruned = plan(anew, state, prune=True).actions[1].spec
    assert [a["network"] for a in pruned["networks"]] == ["p_n"] and "ports" not in pruned


def test_a_container_attached_elsewhere_or_to_be_run_is_another_one():
    def attached(place: str) -> Project:
        wish = service(how="there")
        return project(replace(wish, how="netns", place=place))

    state = carried_out(plan(attached("/run/netns/a"), EMPTY), EMPTY)
    assert plan(attached("a"), state).actions == ()
    assert steps(plan(attached("b"), state)) == ["- detach container p-web-1", "+ attach container p-web-1"]
    assert steps(plan(project(service()), state)) == ["- detach container p-web-1", "+ run container p-web-1"]


def test_a_network_in_use_by_somebody_else_is_not_removed():
    state = carried_out(plan(project(), EMPTY), EMPTY)
    guest = {"n": {**state.networks["p_n"], "containers": [{"name": "guest"}]}}
    wanted = plan(Project("p", (), ()), replace(state, networks={"p_n": guest["n"]}), prune=True)
    assert wanted.actions == () and wanted.left == ("network p_n (in use by guest)",)


def test_a_stopped_container_is_started_and_an_orphaned_one_waited_for():
    state = carried_out(plan(project(service()), EMPTY), EMPTY)
    assert steps(plan(project(service()), all_stopped(state))) == ["~ start container p-web-1"]
    (container,) = state.containers.values()
    orphan = Held({**container.view, "state": "orphaned", "remedy": "do this"}, container.spec)
    wanted = plan(project(service(hostname="h")), replace(state, containers={"p-web-1": orphan}))
    assert wanted.actions == () and "do this" in wanted.waiting[0]


def test_a_network_whose_subnet_differs_is_made_anew_only_while_nobody_is_on_it():
    other = (NetworkWish("n", "p_n", spec={"subnets": [{"subnet": "10.7.0.0/24"}]}),)
    empty = carried_out(plan(project(), EMPTY), EMPTY)
    assert steps(plan(project(networks=other), empty)) == [
        "~ remove network p_n".replace("~", "-"),
        "+ create network p_n",
    ]
    used = carried_out(plan(project(service()), EMPTY), EMPTY)
    with pytest.raises(Refused, match="other subnets or gateways than the file says, and containers are on it"):
        plan(project(service(), networks=other), used)


def test_a_service_shares_the_network_of_the_container_that_another_one_is():
    side = ServiceWish(
        "side", ("p-side-1",), "run", "", {"command": ["sh"], "networks": [], "network_mode": "service:web"}
    )
    wanted = plan(project(service(), side), EMPTY)
    assert wanted.actions[-1].spec["network_mode"] == "container:p-web-1"
    assert plan(project(service(), side), carried_out(wanted, EMPTY)).actions == ()
    with pytest.raises(Refused, match="service:web names nothing"):
        plan(project(side), EMPTY)


def test_what_the_project_did_not_make_gets_more_and_loses_nothing():
    ours = carried_out(plan(project(service()), EMPTY), EMPTY)
    (container,) = ours.containers.values()
    elsewhere = {"name": "mine", "aliases": [], "ipv4": "10.0.0.2/24", "ipv6": None, "mac": "02:42:0a:00:00:02"}
    view = {**container.view, "labels": {"mine": "1"}, "networks": [elsewhere]}
    foreign = Held(view, {**container.spec, "command": ["mine"], "ports": ["8080:80"]})
    state = replace(ours, containers={"p-web-1": foreign})
    for prune in (False, True):
        wanted = plan(project(service(how="there")), state, prune=prune)
        assert steps(wanted) == ["~ connect container p-web-1"] and wanted.waiting == ()
        wanted = plan(project(service(how="there", hostname="h")), state, prune=prune)
        assert steps(wanted) == ["~ connect container p-web-1"]
        (waiting,) = wanted.waiting
        assert waiting == "web: container p-web-1 was made by somebody else, who alone can change its hostname"


# ---- what would be refused


def fixed(address: str, network: str = "p_n") -> dict:
    return {"networks": [{"network": network, "aliases": [], "ip": address}]}


SUBNET = (NetworkWish("n", "p_n", spec={"subnets": [{"subnet": "10.7.0.0/24"}]}),)


def test_a_container_is_made_anew_with_the_address_and_ports_it_had_but_not_with_anothers():
    a, b = service("a", ports=["80:80"], **fixed("10.7.0.2")), service("b", ports=["81:80"], **fixed("10.7.0.3"))
    state = carried_out(plan(project(a, b, networks=SUBNET), EMPTY), EMPTY)
    anew = service("a", ports=["80:80"], hostname="h", **fixed("10.7.0.2"))
    wanted = plan(project(anew, b, networks=SUBNET), state)
    assert steps(wanted) == ["- remove container p-a-1", "+ run container p-a-1"]
    for change in (fixed("10.7.0.3"), {"ports": ["127.0.0.1:81:80"]}):
        taken = service("a", hostname="h", **{**fixed("10.7.0.2"), **change})
        with pytest.raises(Refused, match=r"services.a.(networks.n|ports): .* by (container )?p-b-1"):
            plan(project(taken, b, networks=SUBNET), state)


def test_addresses_change_hands_only_once_they_are_free():
    state = carried_out(plan(project(service("a", **fixed("10.7.0.2")), networks=SUBNET), EMPTY), EMPTY)
    a, b = service("a", **fixed("10.7.0.9")), service("b", **fixed("10.7.0.2"))
    assert "+ run container p-b-1" in steps(plan(project(a, b, networks=SUBNET), state))
    with pytest.raises(Refused, match=r"services.b.networks.n: address 10.7.0.2 is in use by p-a-1"):
        plan(project(b, a, networks=SUBNET), state)


def test_a_port_of_a_container_that_the_project_knows_nothing_of_is_taken():
    state = replace(EMPTY, ports={"guest": [
        {"host_ip": "127.0.0.1", "host_port": 80, "container_port": 8, "protocol": "tcp"}
    ]})  # fmt: skip
    for text in ("80:80", "127.0.0.1:79-80:79-80", "0.0.0.0:80:80/tcp+udp"):
        with pytest.raises(Refused, match=r"services.web.ports: host port 80/tcp is taken by container guest"):
            plan(project(service(ports=[text])), state)
    for text in ("80:80/udp", "127.0.0.2:80:80", "[::]:80:80", "80-81:80", "80"):
        assert plan(project(service(ports=[text])), state).actions


def test_where_networks_publish_at_addresses_of_their_own_the_same_port_is_no_clash():
    networks = tuple(
        NetworkWish(key, f"p_{key}", spec={"options": {"host_binding_ipv4": f"127.0.0.{number}"}})
        for number, key in enumerate("nm", 1)
    )
    a = service("a", ports=["80:80"])
    b = service("b", ports=["80:80"], networks=[{"network": "p_m", "aliases": []}])
    assert len(plan(project(a, b, networks=networks), EMPTY).actions) == 4


def test_what_is_wrong_with_a_container_that_is_waited_for_is_said_too():
    with pytest.raises(Refused, match=r"services.b.networks.n: address 10.8.0.1 is outside network p_n"):
        plan(project(service("b", how="there", **fixed("10.8.0.1")), networks=SUBNET), EMPTY)


def test_a_container_without_a_network_that_is_to_join_some_is_made_anew_on_them():
    alone = ServiceWish("web", ("p-web-1",), "run", "", {"command": ["sh"], "networks": [], "network_mode": "none"})
    state = carried_out(plan(project(alone), EMPTY), EMPTY)
    joined = replace(service(how="there", hostname="h"), names=alone.names)
    action = plan(project(joined), state).actions[-1]
    assert action.verb == "run" and action.spec["network_mode"] == "bridge" and action.spec["command"] == ["sh"]


def test_a_service_of_another_name_gets_the_address_and_port_of_the_pruned_one():
    old, new = (service(key, ports=["80:80"], **fixed("10.7.0.2")) for key in ("old", "new"))
    state = carried_out(plan(project(old, networks=SUBNET), EMPTY), EMPTY)
    wanted = plan(project(new, networks=SUBNET), state, prune=True)
    assert steps(wanted) == ["- remove container p-old-1", "+ run container p-new-1"]
    with pytest.raises(Refused, match=r"services.new.networks.n: address 10.7.0.2 is in use by p-old-1"):
        plan(project(new, networks=SUBNET), state)
