"""What is found in an image by looking at its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import ResolveError
from buildctl.lock.inside.image_python import ImagePython, ImageTree, find_glibc, find_python, find_user

USUAL = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tree(root: Path, *files: str, **links: str) -> ImageTree:
    """`links` are link -> target, with __ for a slash."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for name, target in links.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return ImageTree(root)


def test_debians_and_ubuntus_python_keeps_packages_in_usr_local(tmp_path: Path) -> None:
    files = ("usr/bin/python3.12", "usr/lib/python3.12/os.py", "usr/lib/python3.12/sysconfig.py")
    image = tree(tmp_path, *files, usr__bin__python3="python3.12", bin="usr/bin", lib="usr/lib")
    (tmp_path / files[2]).write_text('_INSTALL_SCHEMES["posix_local"] = {}\n')
    found = find_python(image, USUAL)
    assert found == ImagePython(
        python="3.12",
        interpreter="/usr/bin/python3.12",
        home="/usr",
        purelib="usr/local/lib/python3.12/dist-packages",
        commands=("python3",),
    )
    assert find_python(ImageTree(tmp_path), "/bin") == found  # /bin is a link


def test_dockers_own_python_is_in_usr_local(tmp_path: Path) -> None:
    ours = ("usr/local/bin/python3.11", "usr/local/lib/python3.11/os.py")
    debians = ("usr/bin/python3.9", "usr/lib/python3.9/os.py")
    names = {"usr__local__bin__python": "python3", "usr__local__bin__python3": "python3.11"}
    found = find_python(tree(tmp_path, *ours, *debians, **names, usr__bin__python3="python3.9"), USUAL)
    assert (found.python, found.interpreter, found.purelib, found.commands) == (
        "3.11",
        "/usr/local/bin/python3.11",
        "usr/local/lib/python3.11/site-packages",
        ("python3", "python"),
    )


def test_one_in_opt_is_found_if_it_is_on_the_path(tmp_path: Path) -> None:
    image = tree(tmp_path, "opt/py/bin/python3.13", "opt/py/lib/python3.13/os.py", opt__py__bin__python3="python3.13")
    found = find_python(image, f"/opt/py/bin:{USUAL}")
    assert (found.home, found.purelib) == ("/opt/py", "opt/py/lib/python3.13/site-packages")
    with pytest.raises(ResolveError, match=r"no python3 or python is on its PATH .*; there is /opt/py/bin/python3, "):
        find_python(image, USUAL)


def test_one_behind_a_link_is_where_the_link_leads(tmp_path: Path) -> None:
    image = tree(tmp_path, "opt/py-3.13/bin/python3.13", "opt/py-3.13/lib/python3.13/os.py", opt__py="py-3.13")
    (tmp_path / "opt/py-3.13/bin/python3").symlink_to("python3.13")
    found = find_python(image, "/opt/py/bin")
    assert (found.interpreter, found.purelib) == (
        "/opt/py-3.13/bin/python3.13",
        "opt/py-3.13/lib/python3.13/site-packages",
    )


def test_a_virtual_environment_has_its_library_elsewhere(tmp_path: Path) -> None:
    image = tree(tmp_path, "usr/bin/python3.12", "usr/lib/python3.12/os.py", venv__bin__python3="/usr/bin/python3.12")
    (tmp_path / "venv/bin/python3.12").symlink_to("python3")
    (tmp_path / "usr/lib/python3.12/sysconfig.py").write_text("posix_local")
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.3\n")
    found = find_python(image, "/venv/bin:/usr/bin")
    assert (found.interpreter, found.home, found.purelib) == (
        "/venv/bin/python3.12",
        "/usr",
        "venv/lib/python3.12/site-packages",
    )


@pytest.mark.parametrize(
    ("files", "links", "message"),
    [
        ((), {}, r"no python3 or python is on its PATH .*, and no other Python was found"),
        (("usr/bin/python3",), {}, r"/usr/bin/python3 \(really /usr/bin/python3\) is not a whole Python"),
        (("usr/bin/python3.12", "usr/lib/python3.12/x"), {"usr__bin__python3": "python3.12"}, r"is not a whole Python"),
        ((), {"usr__bin__python3": "python", "usr__bin__python": "python3"}, r"is a loop of links"),
    ],
)
def test_an_image_without_a_usable_python(
    tmp_path: Path, files: tuple[str, ...], links: dict[str, str], message: str
) -> None:
    with pytest.raises(ResolveError, match=message):
        find_python(tree(tmp_path, "etc/passwd", *files, **links), USUAL)


def test_links_stay_in_the_image(tmp_path: Path) -> None:
    image = tree(tmp_path / "image", "etc/x", usr__bin__python3="/../../outside")
    (tmp_path / "outside").write_text("x")
    assert image.real("/usr/bin/python3") == "/outside"
    assert not image.file("/usr/bin/python3")


def test_the_c_library(tmp_path: Path) -> None:
    image = tree(tmp_path, "usr/lib/x86_64-linux-gnu/libc.so.6", "lib/ld-musl-x86_64.so.1")
    with pytest.raises(ResolveError, match=r"no GNU C library, .*: it has musl \(ld-musl-x86_64.so.1\)"):
        find_glibc(image)
    text = b"\x7fELF\0GNU C Library (Ubuntu GLIBC 2.39-0ubuntu8) stable release version 2.39.\n"
    (tmp_path / "usr/lib/x86_64-linux-gnu/libc.so.6").write_bytes(text)
    assert find_glibc(image) == "2.39"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", ""),
        ("root", ""),
        ("0:0", ""),
        ("app", "1001:100"),
        ("app:wheel", "1001:10"),
        ("77", "77:77"),
        ("77:5", "77:5"),
    ],
)
def test_the_user_is_a_number(tmp_path: Path, user: str, ids: str) -> None:
    image = tree(tmp_path, "etc/passwd", "etc/group")
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1001:100::/app:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nwheel:x:10:\n")
    assert find_user(image, user) == ids
    with pytest.raises(ResolveError, match="its user 'nobody' is not in /etc/passwd or /etc/group"):
        find_user(image, "nobody")
