"""What the scripts of added packages would do is in the layer, or the package is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.artifacts.debian.base import check_scripts
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import capability_names
from tests.support.debs import Compiled, Tree, deb, facts, file, folder, link, lock_of, made, text, tiny_base, write_all

UPGRADE_ONLY = """\
#!/bin/sh
set -e
# Automatically added by dh_installdeb/13.24.2
dpkg-maintscript-helper rm_conffile /etc/old 1:1.8 -- "$@"
# End automatically added section
if [ "$1" = configure ] && dpkg --compare-versions "$2" lt-nl 2; then rm -rf / | tee; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ -x "$(command -v systemd-tmpfiles)" ]; then systemd-tmpfiles --create x.conf; fi
exit 0
"""


def script(body: str) -> str:
    return f"#!/bin/sh\nset -e\n{body}\n"


def layer(tmp_path: Path, **packages: bytes) -> Tree:
    """What these packages add to the tiny base."""
    runtime = tiny_base()
    return made(tmp_path, {**runtime, **packages}, below=lock_of(runtime), added=True)


def one(tmp_path: Path, body: str, *members: object, **control: str) -> Tree:
    files = {"postinst": script(body), **control}
    return layer(tmp_path, tool=deb("tool", members, control=files))  # type: ignore[arg-type]


def refused(tmp_path: Path, body: str, **control: str) -> str:
    with pytest.raises(ArtifactError) as caught:
        one(tmp_path, body, **control)
    assert "--engine docker" in str(caught.value.hint)
    return caught.value.message


def test_what_only_an_upgrade_or_a_running_system_does_is_nothing(tmp_path: Path) -> None:
    tree = one(tmp_path, "true", file("usr/bin/tool", "x", 0o755), preinst=UPGRADE_ONLY, postinst=UPGRADE_ONLY)
    own = {path for path, (entry, _) in tree.items() if entry.kind != "directory"}
    assert own == {
        *("usr/bin/tool", "var/lib/dpkg/status"),
        *(f"var/lib/dpkg/info/tool.{name}" for name in ("list", "md5sums", "postinst", "preinst")),
    }
    assert "Package: tool\nStatus: install ok installed\n" in text(tree, "var/lib/dpkg/status")


def test_scripts_of_the_base_are_followed_but_those_whose_work_is_known(tmp_path: Path) -> None:
    known = {**tiny_base(), "tar": deb("tar", control={"postinst": script("magic")})}
    tool = deb("tool", [file("usr/bin/tool", "x", 0o755)], control={"postinst": script("chmod 4755 /usr/bin/tool")})
    entry, _ = made(tmp_path, {**known, "tool": tool})["usr/bin/tool"]
    assert entry.mode == 0o4755
    other = deb("other", [file("usr/bin/other", "x")])
    above = made(tmp_path, {**known, "tool": tool, "other": other}, below=lock_of({**known, "tool": tool}), added=True)
    assert ("usr/bin/other" in above, "usr/bin/tool" in above) == (True, False)
    with pytest.raises(ArtifactError, match=r"odd 1.0: its postinst script .*line 3: magic"):
        made(tmp_path, {**known, "odd": deb("odd", control={"postinst": script("magic")})})


SETCAP = """\
PROGRAM=$(dpkg-divert --truename /bin/ping)
if command -v setcap >/dev/null; then
  if setcap cap_net_raw+ep $PROGRAM; then chmod u-s $PROGRAM; else chmod 4755 $PROGRAM; fi
fi"""


def test_file_capabilities_are_those_that_setcap_gives(tmp_path: Path) -> None:
    members = (file("usr/bin/ping", "x", 0o4755), file("usr/sbin/setcap", "x", 0o755))
    entry, _ = one(tmp_path, SETCAP, *members)["usr/bin/ping"]
    assert (entry.mode, sorted(capability_names(entry.capability))) == (0o755, ["cap_net_raw"])
    without, _ = one(tmp_path, SETCAP, members[0])["usr/bin/ping"]
    assert (without.mode, without.capability) == (0o4755, b"")


@pytest.mark.parametrize("words", ["cap_none+ep", "cap_net_raw", "cap_net_raw+x", "-r", "cap_net_raw+ep -q"])
def test_other_words_of_setcap_are_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(ArtifactError, match="setcap"):
        one(tmp_path, f"setcap {words} /usr/bin/ping", file("usr/bin/ping", "x"))


def test_an_unknown_command_refuses_the_package_with_script_and_line(tmp_path: Path) -> None:
    message = refused(tmp_path, 'if [ "$1" = configure ]; then\n  magic --now\nfi')
    assert message == ("tool 1.0: its postinst script does more than is known without running it (line 4: magic --now)")
    assert "its preinst script" in refused(tmp_path, "true", preinst=script("magic"))


@pytest.mark.parametrize(
    "body",
    [
        "echo x > /etc/made",
        "rm /usr/bin/bash",
        "rm /nothing/there",
        "chmod u+s /usr/bin/bash",
        "ln -s a /usr/bin/bash",
        "mkdir -p /usr/bin/bash",
        "mkdir -p ../up",
        "[ -e /proc/1 ]",
        "update-alternatives --install /usr/bin/x x",
        "update-alternatives --set awk /usr/bin/gawk",
        "dpkg --compare-versions 1 lt 2",
        "dpkg-divert --package tool --rename --divert /a /b",
        "addgroup --gid 7 x",
        "install -m 644 a b",
        ". /etc/profile",
        "db_get other/question",
        "py3compile -p other",
        "dpkg-query -W bash",
        "getent hosts x",
    ],
)
def test_what_is_half_known_is_refused_too(tmp_path: Path, body: str) -> None:
    assert "(line 3: " in refused(tmp_path, body)


def test_a_script_that_would_fail_refuses_the_package(tmp_path: Path) -> None:
    assert "it would fail" in refused(tmp_path, "getent group nobody-has-this >/dev/null")


def test_alternatives_of_packages_above_and_below_become_one_record(tmp_path: Path) -> None:
    awk = (
        "update-alternatives --quiet --install /usr/bin/awk awk /usr/bin/gawk 10 \\\n"
        "  --slave /usr/bin/nawk nawk /usr/bin/gawk --slave /usr/bin/x x /usr/bin/gx"
    )
    tree = one(tmp_path, awk, file("usr/bin/gawk", "x", 0o755))
    assert {tree[f"etc/alternatives/{name}"][0].target for name in ("awk", "nawk")} == {"/usr/bin/gawk"}
    assert "etc/alternatives/x" not in tree  # its file is not there
    assert text(tree, "var/lib/dpkg/alternatives/awk") == (
        "auto\n/usr/bin/awk\n"
        "awk.1.gz\n/usr/share/man/man1/awk.1.gz\n"
        "nawk\n/usr/bin/nawk\n"
        "nawk.1.gz\n/usr/share/man/man1/nawk.1.gz\n"
        "x\n/usr/bin/x\n"
        "\n/usr/bin/gawk\n10\n\n/usr/bin/gawk\n\n/usr/bin/gx\n"
        "/usr/bin/mawk\n5\n/usr/share/man/man1/mawk.1.gz\n/usr/bin/mawk\n/usr/share/man/man1/mawk.1.gz\n\n\n"
    )


def test_a_lesser_alternative_changes_the_record_and_no_link(tmp_path: Path) -> None:
    body = "update-alternatives --install /usr/bin/awk awk /usr/bin/oawk 1"
    tree = one(tmp_path, body, file("usr/bin/oawk", "x", 0o755))
    assert "usr/bin/oawk\n1\n" in text(tree, "var/lib/dpkg/alternatives/awk")
    assert not {"etc/alternatives/awk", "usr/bin/awk"} & set(tree)


def test_nothing_of_the_base_can_go(tmp_path: Path) -> None:
    body = "update-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10"  # without nawk, which the base has
    with pytest.raises(ArtifactError, match="would remove etc/alternatives/nawk, usr/bin/nawk"):
        one(tmp_path, body, file("usr/bin/gawk", "x", 0o755))


def test_groups_owners_and_modes(tmp_path: Path) -> None:
    body = (
        "if ! getent group _tool >/dev/null; then addgroup --system --quiet --force-badname _tool; fi\n"
        "addgroup --system other\n"
        "if ! dpkg-statoverride --list /usr/bin/tool >/dev/null; then\n"
        "  chgrp _tool /usr/bin/tool; chmod 2755 /usr/bin/tool\nfi\n"
        "install -d -o root -g mail -m 2775 /var/lib/tool\nmkdir -p /var/cache/tool/deep"
    )
    tree = one(tmp_path, body, file("usr/bin/tool", "x", 0o755))
    assert text(tree, "etc/group").endswith("_tool:x:100:\nother:x:101:\n")
    assert text(tree, "etc/gshadow").endswith("_tool:!::\nother:!::\n")
    assert tree["etc/gshadow"][0].gid == 42
    assert facts(tree, "usr/bin/tool") == ("file", 0o2755, 0, 100)
    assert facts(tree, "var/lib/tool") == ("directory", 0o2775, 0, 8)
    assert facts(tree, "var/cache/tool/deep") == ("directory", 0o755, 0, 0)


def test_debconf_answers_with_defaults_and_what_the_config_script_sets(tmp_path: Path) -> None:
    templates = "Template: tool/style\nType: select\nDefault: plain\nDescription: x\n\nTemplate: tool/on\nDefault: no\n"
    config = script(". /usr/share/debconf/confmodule\ndb_input low tool/style || true\ndb_go\ndb_set tool/on yes")
    body = (
        ". /usr/share/debconf/confmodule\ndb_get tool/style\nstyle=$RET\ndb_get tool/on\n"
        'case "$style-$RET" in plain-yes) ln -s /usr/share/plain /etc/tool-style;; esac\n'
        "if [ -h /etc/tool-style ]; then rm /etc/shipped; fi"
    )
    tree = one(tmp_path, body, link("etc/shipped", "x"), templates=templates, config=config)
    assert tree["etc/tool-style"][0].target == "/usr/share/plain"
    assert "etc/shipped" not in tree


def test_python_modules_of_debian_are_compiled(tmp_path: Path) -> None:
    runtime, compiler = tiny_base(), Compiled()
    members = [
        file("usr/lib/python3/dist-packages/m/x.py", "x = 1\n"),
        file("usr/share/doc.py", ""),
        file("opt/o/p.py"),
    ]
    body = "if command -v bash >/dev/null; then py3compile -p python3-m:amd64 /opt/o; fi"
    packages = {**runtime, "python3-m": deb("python3-m", members, control={"postinst": script(body)})}
    made(tmp_path, packages, below=lock_of(runtime), compiler=compiler, added=True)
    assert sorted(path for path, _ in compiler.seen) == ["/opt/o/p.py", "/usr/lib/python3/dist-packages/m/x.py"]


def test_triggers_between_added_packages_are_followed(tmp_path: Path) -> None:
    body = 'if [ "$1" = triggered ]; then mkdir -p /var/$2; exit 0; fi'
    cache = deb("cache", control={"postinst": script(body), "triggers": "interest-noawait /usr/share/fonts\n"})
    tree = layer(tmp_path, cache=cache, font=deb("font", [file("usr/share/fonts/a", "x")]))
    assert "var/usr/share/fonts" in tree
    assert "var/usr/share/fonts" not in layer(tmp_path, cache=cache, other=deb("other", [file("usr/share/x", "x")]))


def test_a_trigger_of_the_base_whose_script_does_not_run_is_refused(tmp_path: Path) -> None:
    runtime = {**tiny_base(), "tar": deb("tar", control={"triggers": "interest /usr/share/watched\n"})}
    packages = {**runtime, "tool": deb("tool", [file("usr/share/watched/x", "x")])}
    with pytest.raises(ArtifactError, match="activate /usr/share/watched, a trigger of tar"):
        made(tmp_path, packages, below=lock_of(runtime), added=True)


def checked(tmp_path: Path, packages: Mapping[str, bytes]) -> tuple[str, ...]:
    runtime = tiny_base()
    paths = write_all(tmp_path, {**runtime, **packages})
    new = lock_of(packages)
    return check_scripts(new, lambda p: paths[p.digest], below=[lock_of(runtime)], scratch=tmp_path)


def test_at_lock_time_people_hear_what_is_left_out(tmp_path: Path) -> None:
    mime = deb(
        "mime", control={"postinst": script("/usr/bin/update-mime-database $(find . -name *.xml | sort) > /var/x")}
    )
    quiet = deb("quiet", [folder("usr/share/q")], control={"postinst": script("fc-cache -s -v 1>/var/log/fc.log")})
    (note,) = checked(tmp_path, {"mime": mime, "quiet": quiet})
    assert note.startswith("mime: the database of file types is not made")
    with pytest.raises(ArtifactError, match="is in two packages: bash and thief"):
        checked(tmp_path, {"thief": deb("thief", [file("usr/bin/bash", "y")])})
