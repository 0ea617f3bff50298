from __future__ import annotations

from tests.support.debs import Tree, text


def test_alternatives(tree: Tree) -> None:
    assert tree["usr/bin/awk"][0].target == "/etc/alternatives/awk"
    assert tree["etc/alternatives/nawk"][0].target == "/usr/bin/mawk"
    assert "etc/alternatives/awk.1.gz" not in tree  # the manual page is left out
    assert text(tree, "var/lib/dpkg/alternatives/awk") == (
        "auto\n/usr/bin/awk\n"
        "awk.1.gz\n/usr/share/man/man1/awk.1.gz\n"
        "nawk\n/usr/bin/nawk\n"
        "nawk.1.gz\n/usr/share/man/man1/nawk.1.gz\n"
        "\n/usr/bin/mawk\n5\n"
        "/usr/share/man/man1/mawk.1.gz\n/usr/bin/mawk\n/usr/share/man/man1/mawk.1.gz\n\n"
    )
    assert "var/lib/dpkg/alternatives/which" not in tree  # its program is not there
