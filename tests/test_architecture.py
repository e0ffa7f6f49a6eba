# SPDX-License-Identifier: Apache-2.0
"""The tree keeps its shape: imports point one way, and the pages that describe it name what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "vswitch"

# What each room may import of the others. A room not named here may be imported by nobody.
BASE = {"drops", "clock", "config", "wire", "model"}
ENGINES = {"dhcp", "dhcp6", "ra", "dns", "nat", "arp", "bridge", "gateway", "guard"}
# What of the control plane says what can be, and knows of nothing that is there
RULES = {"ipam", "modes", "names", "specs", "subnets", "wayout"}
ALLOWED = {
    **{room: set() for room in BASE},
    "config": {"model"},
    "nat": {"model", "wire", "arp", "datapath", "_fastpath"},
    "dhcp": {"wire"},
    "dhcp6": {"wire"},
    "ra": {"wire"},
    "guard": {"wire", "arp", "datapath", "_fastpath"},
    "dns": {"wire"},
    "arp": {"wire"},
    "bridge": {"wire"},
    "gateway": {"wire", "arp", "datapath"},
    "datapath": BASE | {"arp", "bridge", "gateway", "guard", "nat", "observe", "_fastpath"},
    "_fastpath": {"wire", "arp", "bridge", "gateway", "guard", "nat", "datapath", "observe"},
    "observe": BASE | {"datapath", "_fastpath"},
    "container": BASE,
    "project": BASE | {"nat.publish"} | {f"control.{rules}" for rules in RULES},
    "ports": BASE | {"container"},
    "control": BASE | {"dhcp", "dhcp6", "dns", "ra", "nat", "datapath", "ports", "container", "observe"},
    "daemon": BASE | {"control", "datapath", "nat", "ports", "container", "observe"},
    "cli": BASE | {"project", "control.api.client", "control.api.places", "container", "ports.handover"},
}


def imports(path: Path) -> set[str]:
    """The dotted names under vswitch that a module imports, wherever in it; of a compiled one its cimports too."""
    if path.suffix == ".py":
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{name.name}" for name in node.names}
        return {name.removeprefix("vswitch.") for name in found if name.startswith("vswitch.")}
    return set(re.findall(r"^\s*from vswitch\.([\w.]+) c?import", path.read_text(), re.M))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def test_imports_point_one_way():
    wrong = []
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")]:
        room = room_of(path)
        if room == "__init__":
            continue
        for name in imports(path):
            other = name.split(".")[0]
            permitted = ALLOWED[room] | {room, "__version__"}
            if other not in permitted and not any(name == rule or name.startswith(rule + ".") for rule in permitted):
                wrong.append(f"{path.relative_to(TOP)} imports vswitch.{name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_every_file_says_its_licence_and_every_module_its_purpose():
    for path in [
        *PACKAGE.rglob("*.py"),
        *PACKAGE.rglob("*.pyx"),
        *(TOP / "tests").rglob("*.py"),
        *(TOP / "examples").rglob("*.py"),
    ]:
        text = path.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_architecture_page_names_every_room_and_every_large_file():
    page = (TOP / "docs" / "architecture.md").read_text()
    for path in sorted(PACKAGE.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in page, f"docs/architecture.md doesn't name {path.name}/"
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]:
        if len(path.read_text().splitlines()) > 150 and room_of(path) != "cli":  # one file per noun, all alike
            assert path.name in page, f"docs/architecture.md doesn't name {path.relative_to(TOP)}"


def test_no_file_has_outgrown_a_mind():
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")]:
        lines = len(path.read_text().splitlines())
        assert lines <= (900 if path.name == "_fastpath.pyx" else 480), (
            f"{path} has {lines} lines: split it along its idea"
        )
