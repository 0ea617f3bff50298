from __future__ import annotations

import subprocess

from buildctl.oci.entry import Kind
from tests.support.debs import Tree, facts, text


def test_accounts(tree: Tree) -> None:
    assert text(tree, "etc/passwd") == (
        "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8::/var/mail:/x\ntorch:x:1000:1000::/home/torch:/bin/bash\n"
    )
    assert text(tree, "etc/group") == "root:x:0:\nmail:x:8:\nshadow:x:42:\ntorch:x:1000:\n"
    assert text(tree, "etc/shadow") == "root:*::0:99999:7:::\nmail:*::0:99999:7:::\ntorch:*::0:99999:7:::\n"
    assert facts(tree, "etc/shadow") == ("file", 0o640, 0, 42)
    assert facts(tree, "etc/gshadow") == ("file", 0o640, 0, 42)


def test_a_login_shell_finds_the_users_programs_once(tree: Tree) -> None:
    script = text(tree, "etc/profile.d/local-bin.sh")
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/h"}
    argv = ["sh", "-c", f'{script}{script}echo "$PATH"']
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "/h/.local/bin:/usr/bin:/bin"


def test_folders_that_any_user_may_write_to(tree: Tree) -> None:
    assert facts(tree, "tmp") == ("directory", 0o1777, 0, 0)
    assert facts(tree, "home/torch") == ("directory", 0o1777, 1000, 1000)
    assert facts(tree, "workspace") == ("directory", 0o1777, 1000, 1000)
    assert facts(tree, "home/torch/.bashrc") == ("file", 0o644, 1000, 1000)
    writable = [p for p, (e, _) in tree.items() if e.mode & 0o002 and e.kind is not Kind.SYMLINK]
    assert sorted(writable) == ["home/torch", "run/lock", "tmp", "workspace"]


def test_shells(tree: Tree) -> None:
    assert text(tree, "etc/shells") == "# shells\n/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n"
    assert text(tree, "var/lib/shells.state") == "/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n"


def test_pam(tree: Tree) -> None:
    assert text(tree, "etc/pam.d/common-auth") == (
        "# head\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n# middle\n# end\n"
    )
    assert text(tree, "etc/pam.d/common-session-noninteractive") == (
        "# head\nsession\t[default=1]\t\t\tpam_permit.so\n# middle\nsession\trequired\tpam_unix.so \n# end\n"
    )
    assert text(tree, "var/lib/pam/account") == "Module: unix\n[success=end default=ignore]\tpam_unix.so\n"
