"""What update-alternatives would have recorded for the packages that call it from their maintainer scripts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from buildctl.oci.entry import Entry, file_entry, symlink_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One `update-alternatives --install /LINK NAME /PATH PRIORITY --slave ...`; slaves are (name, link, path)."""

    package: str
    name: str
    link: str
    path: str
    priority: int
    slaves: tuple[tuple[str, str, str], ...] = ()


def _man(name: str, page: str, section: int = 1) -> tuple[str, str, str]:
    folder = f"/usr/share/man/man{section}"
    return (f"{name}.{section}.gz", f"{folder}/{name}.{section}.gz", f"{folder}/{page}.{section}.gz")


def _translated(language: str) -> tuple[str, str, str]:
    folder = f"/usr/share/man/{language}/man1"
    return (f"which.{language}1.gz", f"{folder}/which.1.gz", f"{folder}/which.debianutils.1.gz")


# From the postinst scripts of Debian 13. A test reads the scripts of all locked packages and fails when one calls
# update-alternatives and is not here.
ALTERNATIVES = (
    Alternative(
        package="bash",
        name="builtins.7.gz",
        link="/usr/share/man/man7/builtins.7.gz",
        path="/usr/share/man/man7/bash-builtins.7.gz",
        priority=10,
    ),
    Alternative(package="cpp", name="cpp", link="/lib/cpp", path="/usr/bin/cpp", priority=10),
    Alternative(
        package="debianutils",
        name="which",
        link="/usr/bin/which",
        path="/usr/bin/which.debianutils",
        priority=0,
        slaves=(
            _man("which", "which.debianutils"),
            *(_translated(language) for language in ("de", "es", "fr", "it", "ja", "pl", "sl")),
        ),
    ),
    Alternative(package="g++", name="c++", link="/usr/bin/c++", path="/usr/bin/g++", priority=20),
    Alternative(
        package="gcc",
        name="c89",
        link="/usr/bin/c89",
        path="/usr/bin/c89-gcc",
        priority=20,
        slaves=(_man("c89", "c89-gcc"),),
    ),
    Alternative(
        package="gcc",
        name="c99",
        link="/usr/bin/c99",
        path="/usr/bin/c99-gcc",
        priority=20,
        slaves=(_man("c99", "c99-gcc"),),
    ),
    Alternative(package="gcc", name="cc", link="/usr/bin/cc", path="/usr/bin/gcc", priority=20),
    Alternative(
        package="mawk",
        name="awk",
        link="/usr/bin/awk",
        path="/usr/bin/mawk",
        priority=5,
        slaves=(_man("awk", "mawk"), ("nawk", "/usr/bin/nawk", "/usr/bin/mawk"), _man("nawk", "mawk")),
    ),
    Alternative(
        package="procps",
        name="w",
        link="/usr/bin/w",
        path="/usr/bin/w.procps",
        priority=50,
        slaves=(_man("w", "w.procps"),),
    ),
    Alternative(
        package="tar",
        name="rmt",
        link="/usr/sbin/rmt",
        path="/usr/sbin/rmt-tar",
        priority=50,
        slaves=(_man("rmt", "rmt-tar", 8),),
    ),
    Alternative(
        package="util-linux",
        name="pager",
        link="/usr/bin/pager",
        path="/bin/more",
        priority=50,
        slaves=(_man("pager", "more"),),
    ),
)


def alternative_entries(
    packages: Collection[str], *, exists: Callable[[str], bool], more: Sequence[Alternative] = ()
) -> Iterator[Entry]:
    """Links and records; `exists` tells of a path of the image. `more` are those that scripts have asked for.

    As with update-alternatives, an alternative without its file is not made, and a slave without its file is recorded
    but gets no link. Of several under one name the highest priority wins, the first of equals.
    """
    ours = [alternative for alternative in ALTERNATIVES if alternative.package in packages]
    groups: dict[str, list[Alternative]] = {}
    for alternative in (*ours, *more):
        if exists(alternative.path):
            groups.setdefault(alternative.name, []).append(alternative)
    for name, choices in groups.items():
        yield file_entry(f"var/lib/dpkg/alternatives/{name}", _record(choices).encode())
        best = max(choices, key=lambda choice: choice.priority)
        links = [(name, best.link, best.path), *best.slaves]
        for link_name, link, path in links:
            if exists(path):
                yield symlink_entry(f"etc/alternatives/{link_name}", path)
                yield symlink_entry(link.removeprefix("/"), f"/etc/alternatives/{link_name}")


def _record(choices: Sequence[Alternative]) -> str:
    """The administration file: mode, link, slaves, and after an empty line each choice with priority and slaves."""
    slaves = sorted({(name, link) for choice in choices for name, link, _ in choice.slaves})
    lines = ["auto", choices[0].link]
    lines += [line for name, link in slaves for line in (name, link)]
    lines.append("")
    for choice in sorted(choices, key=lambda choice: choice.path):
        paths = {name: path for name, _, path in choice.slaves}
        lines += [choice.path, str(choice.priority), *(paths.get(name, "") for name, _ in slaves)]
    return "\n".join([*lines, "", ""])
