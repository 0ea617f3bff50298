from __future__ import annotations

import base64
import csv
import hashlib
import io
import posixpath
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile as InstallerWheel

from buildctl.artifacts.bytecode import BuildPython, pyc_path
from buildctl.artifacts.wheels.layer import WheelFile, estimated_work, group_entries, refuse_overlaps, wheel_entries
from buildctl.artifacts.wheels.wheel import Site
from buildctl.ground.errors import ArtifactError
from buildctl.oci.compression import COMPRESSIONS, UNCOMPRESSED, ZSTD, Compression
from buildctl.oci.entry import DeflatedBody, Entry, Kind
from buildctl.oci.layer import write_layer
from tests.support.wheels import make_wheel, record_line, saved, wheel_contents, zipped

SITE = Site()
PURE = SITE.purelib
HERE = BuildPython(argv=(sys.executable,), tag=str(sys.implementation.cache_tag))
DEMO = {
    "demo/__init__.py": b"VALUE = 1\n",
    "demo/deep/module.py": b"def f():\n    return 2\n",
    "demo/lib.so": b"\x7fELF" + bytes(5000),
    "demo-1.0.data/purelib/demo/pure.txt": b"pure",
    "demo-1.0.data/platlib/demo/plat.txt": b"plat",
    "demo-1.0.data/scripts/old-style": b"#!python\nprint('hello')\n",
    "demo-1.0.data/scripts/shell": b"#!/bin/sh\necho hello\n",
    "demo-1.0.data/headers/demo.h": b"int demo;\n",
    "demo-1.0.data/data/share/demo/data.txt": b"data",
}
POINTS = "[console_scripts]\ndemo = demo.deep.module:f\nrun-it = demo:Main.run\n[gui_scripts]\ndemo-gui = demo:gui\n"


def read(entries: Iterable[Entry]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in entries:
        if entry.kind is Kind.FILE:
            assert entry.body is not None
            data = b"".join(entry.body.chunks())
            assert len(data) == entry.size
            found[entry.path] = data
    return found


def installed(wheel: WheelFile, *, bytecode: BuildPython | None = None) -> dict[str, bytes]:
    return read(wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=bytecode))


def record(files: dict[str, bytes], name: str = "demo-1.0") -> dict[str, tuple[str, str]]:
    text = files[f"{PURE}/{name}.dist-info/RECORD"].decode()
    return {path: (digest, size) for path, digest, size in csv.reader(text.splitlines())}


def test_files_go_where_pep_427_says(tmp_path: Path) -> None:
    files = installed(make_wheel(tmp_path, DEMO))
    expected = {
        f"{PURE}/demo/__init__.py": DEMO["demo/__init__.py"],
        f"{PURE}/demo/deep/module.py": DEMO["demo/deep/module.py"],
        f"{PURE}/demo/lib.so": DEMO["demo/lib.so"],
        f"{PURE}/demo/pure.txt": b"pure",
        f"{PURE}/demo/plat.txt": b"plat",
        "usr/local/bin/old-style": b"#!/usr/bin/python3.13\nprint('hello')\n",
        "usr/local/bin/shell": b"#!/bin/sh\necho hello\n",
        "usr/local/include/python3.13/demo/demo.h": b"int demo;\n",
        "usr/local/share/demo/data.txt": b"data",
    }
    info = {p: d for p, d in files.items() if ".dist-info/" in p}
    assert {p: d for p, d in files.items() if p not in info} == expected
    assert {p.rpartition("/")[2] for p in info} == {"METADATA", "WHEEL", "RECORD", "INSTALLER", "REQUESTED"}
    assert info[f"{PURE}/demo-1.0.dist-info/INSTALLER"] == b"buildctl\n"


def test_the_same_files_as_pypas_installer(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, DEMO, entry_points=POINTS)
    named = tmp_path / wheel.filename
    named.hardlink_to(wheel.path)
    root = tmp_path / "root"
    schemes = {
        "purelib": PURE,
        "platlib": PURE,
        "scripts": SITE.scripts,
        "data": SITE.data,
        "headers": f"{SITE.headers}/demo",
    }
    destination = SchemeDictionaryDestination(
        {k: str(root / v) for k, v in schemes.items()}, interpreter=SITE.interpreter, script_kind="posix"
    )
    with InstallerWheel.open(named) as source:
        install(
            source=source, destination=destination, additional_metadata={"INSTALLER": b"buildctl\n", "REQUESTED": b""}
        )
    theirs = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    ours = {e.path: e for e in wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=None)}
    assert {p for p, e in ours.items() if e.kind is Kind.FILE} == set(theirs)
    for path, data in installed(wheel).items():
        if not path.endswith(("/RECORD", "bin/demo", "bin/demo-gui", "bin/run-it")):
            assert data == theirs[path].read_bytes(), path
        if not path.endswith(("bin/old-style", "bin/shell")):  # pip and uv make these executable, installer does not
            assert bool(ours[path].mode & 0o111) == bool(theirs[path].stat().st_mode & 0o111), path
    assert set(record(installed(wheel))) == {
        posixpath.normpath(row.split(",")[0])
        for row in theirs[f"{PURE}/demo-1.0.dist-info/RECORD"].read_text().splitlines()
    }


def test_console_scripts_call_their_function_with_the_images_interpreter(tmp_path: Path) -> None:
    files = installed(make_wheel(tmp_path, {}, entry_points=POINTS))
    assert {p for p in files if p.startswith("usr/local/bin/")} == {
        f"usr/local/bin/{n}" for n in ("demo", "demo-gui", "run-it")
    }
    script = files["usr/local/bin/run-it"].decode()
    assert script.startswith("#!/usr/bin/python3.13\n")
    assert "from demo import Main\n" in script
    assert "sys.exit(Main.run())\n" in script
    compile(script, "run-it", "exec")


def test_modes_owners_and_times_do_not_come_from_the_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, DEMO, modes={"demo/lib.so": 0o100700, "demo/deep/module.py": 0o104666})
    entries = {e.path: e for e in wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=HERE)}
    assert {(e.uid, e.gid, e.mtime) for e in entries.values()} == {(0, 0, 315532800)}
    assert {e.mode for e in entries.values() if e.kind is Kind.DIRECTORY} == {0o755}
    executable = {p for p, e in entries.items() if e.kind is Kind.FILE and e.mode == 0o755}
    assert executable == {f"{PURE}/demo/lib.so", "usr/local/bin/old-style", "usr/local/bin/shell"}
    assert {e.mode for p, e in entries.items() if e.kind is Kind.FILE and p not in executable} == {0o644}


def test_every_folder_comes_before_what_is_in_it(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, DEMO, entry_points=POINTS)
    seen = {""}
    for entry in wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=HERE):
        assert entry.path.rpartition("/")[0] in seen, entry.path
        if entry.kind is Kind.DIRECTORY:
            seen.add(entry.path)


def test_record_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    files = installed(make_wheel(tmp_path, DEMO, entry_points=POINTS), bytecode=HERE)
    rows = record(files)
    listed = {f"{PURE}/{p}" if not p.startswith("../") else "usr/local/" + p.removeprefix("../../../") for p in rows}
    assert listed == set(files)
    for path, (digest, size) in rows.items():
        data = files[f"{PURE}/{path}" if not path.startswith("../") else "usr/local/" + path.removeprefix("../../../")]
        if path.endswith(("/RECORD", ".pyc")):
            assert (digest, size) == ("", "")
        else:
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={expected}", str(len(data)))


def test_bytecode_lies_beside_every_source_that_compiles(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {**DEMO, "demo/python2.py": b"print 'two'\n", "demo-1.0.data/data/x.py": b"x = 1\n"})
    files = installed(wheel, bytecode=HERE)
    expected = {pyc_path(f"{PURE}/demo/{m}.py", HERE.tag) for m in ("__init__", "deep/module")}
    assert {p for p in files if p.endswith(".pyc")} == expected
    assert {p for p in record(files) if p.endswith(".pyc")} == {p.removeprefix(f"{PURE}/") for p in expected}
    code = files[pyc_path(f"{PURE}/demo/deep/module.py", HERE.tag)]
    assert f"/{PURE}/demo/deep/module.py".encode() in code


def test_the_tests_of_a_package_get_no_bytecode(tmp_path: Path) -> None:
    named = (
        "tests/test_all.py",
        "demo/tests/__init__.py",
        "demo/deep/tests/data/x.py",
        "demo/tests.py",
        "demo/test/x.py",
    )
    stale = {pyc_path("demo/tests/__init__.py", HERE.tag): b"stale"}
    files = installed(make_wheel(tmp_path, DEMO | dict.fromkeys(named, b"x = 1\n") | stale), bytecode=HERE)
    compiled = {f"{PURE}/{name}" for name in named if pyc_path(f"{PURE}/{name}", HERE.tag) in files}
    # a package called `tests` may be anybody's
    assert compiled == {f"{PURE}/{name}" for name in ("tests/test_all.py", "demo/tests.py", "demo/test/x.py")}
    assert {f"{PURE}/{name}" for name in named} <= files.keys()
    assert set(record(files)) >= {*named}
    assert pyc_path("demo/tests/__init__.py", HERE.tag) not in record(files)


def test_bytecode_that_a_wheel_brings_is_replaced(tmp_path: Path) -> None:
    stale = {pyc_path("demo/__init__.py", HERE.tag): b"stale", pyc_path("demo/bad.py", HERE.tag): b"stale"}
    files = installed(make_wheel(tmp_path, {**DEMO, "demo/bad.py": b"1 +", **stale}), bytecode=HERE)
    assert b"stale" not in files.values()
    assert set(record(files)) == {
        p.removeprefix(f"{PURE}/") if p.startswith(PURE) else f"../../../{p[10:]}" for p in files
    }


def test_what_an_installer_wrote_elsewhere_is_written_anew(tmp_path: Path) -> None:
    files = installed(
        make_wheel(tmp_path, {"demo-1.0.dist-info/INSTALLER": b"pip\n", "demo-1.0.dist-info/RECORD.jws": b"{}"})
    )
    assert files[f"{PURE}/demo-1.0.dist-info/INSTALLER"] == b"buildctl\n"
    assert f"{PURE}/demo-1.0.dist-info/RECORD.jws" not in files


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("compression", [*COMPRESSIONS.values(), UNCOMPRESSED], ids=lambda c: c.method)
def test_a_layer_of_a_wheel_is_a_tar_of_its_files(tmp_path: Path, compression: Compression, stored: bool) -> None:
    wheel = make_wheel(tmp_path, DEMO, stored=stored)
    out = io.BytesIO()
    layer = write_layer(
        wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=HERE), out, compression=compression
    )
    plain = io.BytesIO()
    again = write_layer(
        wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=HERE),
        plain,
        compression=UNCOMPRESSED,
    )
    assert again.diff_id == layer.diff_id
    plain.seek(0)
    with tarfile.open(fileobj=plain) as tar:
        found = {m.name: f.read() for m in tar if m.isreg() and (f := tar.extractfile(m))}
    assert found == installed(wheel, bytecode=HERE)


def test_libraries_keep_their_deflate_stream(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, DEMO)
    bodies = {
        e.path: e.body for e in wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=HERE) if e.body
    }
    assert isinstance(bodies[f"{PURE}/demo/lib.so"], DeflatedBody)
    assert isinstance(bodies[f"{PURE}/demo/__init__.py"], DeflatedBody)


# --- groups ---


def pair(folder: Path, first: bytes, second: bytes) -> list[WheelFile]:
    return [
        make_wheel(folder, {"shared/__init__.py": first, "shared/a.py": b"a = 1\n"}, name="one"),
        make_wheel(folder, {"shared/__init__.py": second, "shared/b.py": b"b = 1\n"}, name="two"),
    ]


def test_a_file_that_wheels_share_is_kept_once_and_listed_by_both(tmp_path: Path) -> None:
    files = read(group_entries(pair(tmp_path, b"same", b"same"), site=SITE, bytecode=None))
    assert files[f"{PURE}/shared/__init__.py"] == b"same"
    assert "shared/__init__.py" in record(files, "one-1.0")
    assert "shared/__init__.py" in record(files, "two-1.0")


def test_the_order_of_a_group_does_not_matter(tmp_path: Path) -> None:
    wheels = pair(tmp_path, b"same", b"same")
    layers = [
        write_layer(group_entries(w, site=SITE, bytecode=HERE), io.BytesIO(), compression=ZSTD)
        for w in (wheels, wheels[::-1])
    ]
    assert layers[0] == layers[1]


def test_wheels_that_want_different_code_at_one_place_are_refused(tmp_path: Path) -> None:
    wheels = pair(tmp_path, b"good = 1", b"evil = 1")
    message = (
        "one-1.0-py3-none-any.whl and two-1.0-py3-none-any.whl would install different files at "
        f"/{PURE}/shared/__init__.py"
    )
    with pytest.raises(ArtifactError) as caught:
        list(group_entries(wheels, site=SITE, bytecode=None))
    assert caught.value.message == message
    with pytest.raises(ArtifactError) as caught:
        refuse_overlaps(wheels[::-1], site=SITE)
    assert caught.value.message == message


def test_who_asks_for_each_of_two_rivals_is_in_the_hint(tmp_path: Path) -> None:
    contents = wheel_contents({}, name="user")
    metadata = contents["user-1.0.dist-info/METADATA"]
    needing = metadata + b'Requires-Dist: Two>=1; python_version > "3"\n'
    contents["user-1.0.dist-info/METADATA"] = needing
    contents["user-1.0.dist-info/RECORD"] = contents["user-1.0.dist-info/RECORD"].replace(
        record_line("user-1.0.dist-info/METADATA", metadata).encode(),
        record_line("user-1.0.dist-info/METADATA", needing).encode(),
    )
    user = saved(tmp_path, zipped(contents), name="user")
    with pytest.raises(ArtifactError) as caught:
        refuse_overlaps([*pair(tmp_path, b"a = 1", b"a = 2"), user], site=SITE)
    assert caught.value.hint == "keep one of them: one is under packages in matrix.yaml; two is needed by user"


NAMESPACE = (
    b'try:\n    __import__("pkg_resources").declare_namespace(__name__)\nexcept ImportError:\n    import pkgutil\n'
)


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("tests/__init__.py", b"one = 1", b"two = 2"),
        ("LICENSE", b"one", b"two"),
        ("setup.py", b"one", b"two"),
        ("shared/__init__.py", b"# of one", b'"""Of two."""\n'),
        ("shared/__init__.py", b"", b"from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"),
        ("shared/__init__.py", b"# of one", NAMESPACE),
        ("{}-1.0.data/data/share/man/man1/tool.1", b"one", b"two"),
    ],
)
def test_files_that_make_no_difference_are_taken_with_one_line(
    tmp_path: Path, path: str, first: bytes, second: bytes
) -> None:
    one = make_wheel(tmp_path, {path.format("one"): first, "tests/more.py": b"1"}, name="one")
    two = make_wheel(tmp_path, {path.format("two"): second, "tests/more.py": b"1"}, name="two")
    place = path.replace("{}-1.0.data/data", "usr/local")
    files = read(group_entries([two, one], site=SITE, bytecode=None))
    assert files[place if place.startswith("usr/") else f"{PURE}/{place}"] == first
    (note,) = refuse_overlaps([one, two], site=SITE)
    assert note == (
        f"one-1.0-py3-none-any.whl and two-1.0-py3-none-any.whl both bring {place}: "
        "nothing depends on which of them stays"
    )


@pytest.mark.parametrize("path", ["shared.py", "x.pth", "shared/lib.so", "{}-1.0.data/scripts/tool"])
def test_files_that_make_a_difference_are_refused(tmp_path: Path, path: str) -> None:
    wheels = [make_wheel(tmp_path, {path.format(name): name.encode()}, name=name) for name in ("one", "two")]
    with pytest.raises(ArtifactError, match="would install different files"):
        refuse_overlaps(wheels, site=SITE)


def test_a_shared_file_whose_record_lies_is_read_all_the_same(tmp_path: Path) -> None:
    contents = wheel_contents({"shared/__init__.py": b"evil"}, name="two")
    contents["two-1.0.dist-info/RECORD"] = contents["two-1.0.dist-info/RECORD"].replace(
        record_line("shared/__init__.py", b"evil").encode(), record_line("shared/__init__.py", b"good").encode()
    )
    wheels = [
        make_wheel(tmp_path, {"shared/__init__.py": b"good"}, name="one"),
        saved(tmp_path, zipped(contents), name="two"),
    ]
    with pytest.raises(ArtifactError, match=r"two-1.0-py3-none-any.whl: 'shared/__init__.py' does not match RECORD"):
        list(group_entries(wheels, site=SITE, bytecode=None))


def test_a_file_where_another_wheel_needs_a_folder_is_refused(tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path, {"x": b""}, name="one"), make_wheel(tmp_path, {"x/y": b""}, name="two")]
    with pytest.raises(ArtifactError, match=f"/{PURE}/x would be both a file and the folder of /{PURE}/x/y"):
        list(group_entries(wheels, site=SITE, bytecode=None))


# --- wheels that lie ---


def refused(folder: Path, contents: dict[str, bytes], *, filename: str | None = None) -> str:
    wheel = saved(folder, zipped(contents))
    with pytest.raises(ArtifactError) as caught:
        read(wheel_entries(wheel.path, filename=filename or wheel.filename, site=SITE, bytecode=None))
    return caught.value.message


LABEL = "demo-1.0-py3-none-any.whl"
INFO = "demo-1.0.dist-info"


def test_content_that_is_not_what_record_says_is_refused(tmp_path: Path) -> None:
    contents = wheel_contents({"demo.py": b"good"})
    assert (
        refused(tmp_path, {**contents, "demo.py": b"evil"}) == f"{LABEL}: 'demo.py' does not match RECORD (wrong hash)"
    )


@pytest.mark.parametrize("bytecode", [None, HERE])
@pytest.mark.parametrize("compression", [*COMPRESSIONS.values(), UNCOMPRESSED], ids=lambda c: c.method)
@pytest.mark.parametrize("name", ["demo.py", "demo.so"])
def test_every_way_through_compares_with_record(
    tmp_path: Path, bytecode: BuildPython | None, compression: Compression, name: str
) -> None:
    wheel = saved(tmp_path, zipped({**wheel_contents({name: b"good"}), name: b"evil"}))
    entries = wheel_entries(wheel.path, filename=wheel.filename, site=SITE, bytecode=bytecode)
    with pytest.raises(ArtifactError, match="does not match RECORD"):
        write_layer(entries, io.BytesIO(), compression=compression)


def test_large_libraries_are_held_to_the_checksum_of_the_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildctl.artifacts.wheels.wheel._MAX_HASHED", 9999)
    good, other = bytes(10_000), b"other" + bytes(9995)
    wrong_record = {**wheel_contents({"lib.so": good}), "lib.so": other}
    assert installed(saved(tmp_path, zipped(wrong_record)))[f"{PURE}/lib.so"] == other
    data = zipped(wheel_contents({"lib.so": good}), stored=True).replace(good, other)
    with pytest.raises(ArtifactError, match=r"'lib.so' has a wrong checksum \(CRC-32\)"):
        installed(saved(tmp_path, data))


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "x.pth", "demo-1.0.data/purelib/x.pth"])
def test_a_file_that_record_does_not_list_and_that_runs_at_every_start_is_refused(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, {**wheel_contents({}), name: b"import evil"})
    assert message == f"{LABEL}: {name!r} is not in RECORD, and Python would run it at every start"


GOOD = record_line("x.py", b"good")


@pytest.mark.parametrize(
    ("line", "written", "note"),
    [
        ("", ",4", "RECORD does not list: x.py"),
        (f"{GOOD}\ngone.py,sha256=abc,1\ngone.pyc,,", GOOD[5:], "RECORD lists what is not there: gone.py and 1 more"),
        ("x.py,,", ",", "RECORD has no SHA-256 of: x.py"),
        ("x.py,md5=abc,4", "md5=abc,4", "RECORD has no SHA-256 of: x.py"),
        (f"{GOOD}\n{GOOD}", GOOD[5:], "RECORD lists twice: x.py"),
        (f"x.py,,\n{GOOD}", GOOD[5:], "RECORD lists twice: x.py"),
        (f"{GOOD}\nx.py,,", GOOD[5:], "RECORD lists twice: x.py"),
    ],
)
def test_a_careless_record_is_taken_with_a_note_and_healed_as_uv_does(
    tmp_path: Path, line: str, written: str, note: str
) -> None:
    wheel = saved(tmp_path, zipped(recorded(line)))
    assert ",".join(record(installed(wheel))["x.py"]) == written
    assert not {"gone.py", "gone.pyc"} & record(installed(wheel)).keys()
    assert refuse_overlaps([wheel], site=SITE) == (f"{LABEL}: {note}",)


def recorded(line: str) -> dict[str, bytes]:
    """A wheel with x.py, of which RECORD says `line`."""
    contents = wheel_contents({"x.py": b"good"})
    rows = contents[f"{INFO}/RECORD"].decode().splitlines()
    contents[f"{INFO}/RECORD"] = "\n".join([line, *(r for r in rows if not r.startswith("x.py"))]).strip().encode()
    return contents


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x.py,sha256=abc,5", "'x.py' is 4 bytes large, RECORD has 5"),
        ("x.py,sha256=abc,4\nx.py,sha256=abd,4", "RECORD lists 'x.py' twice, with different hashes"),
        ("x.py,sha256=abc,4\nx.py,sha256=abc,4", "'x.py' does not match RECORD"),
        ("x.py", "malformed RECORD: "),
        ("x.py,sha256=abc,many", "malformed RECORD: "),
    ],
)
def test_a_record_that_lies_is_refused(tmp_path: Path, line: str, why: str) -> None:
    assert refused(tmp_path, recorded(line)).startswith(f"{LABEL}: {why}")


def test_a_wheel_that_is_refused_comes_with_a_way_out(tmp_path: Path) -> None:
    wheel = saved(tmp_path, zipped(recorded("x.py,sha256=abc,4")))
    with pytest.raises(ArtifactError) as caught:
        installed(wheel)
    assert str(caught.value.hint).startswith("ask for another version of demo under packages in matrix.yaml")


@pytest.mark.parametrize("name", ["METADATA", "WHEEL", "RECORD"])
def test_a_wheel_without_its_metadata_is_refused(tmp_path: Path, name: str) -> None:
    contents = wheel_contents({})
    contents.pop(f"{INFO}/{name}")
    assert refused(tmp_path, contents) == f"{LABEL}: '{INFO}/{name}' is missing"


@pytest.mark.parametrize(
    ("filename", "why"),
    [
        ("other-1.0-py3-none-any.whl", "'demo-1.0.dist-info' does not match the file name"),
        ("demo-2.0-py3-none-any.whl", "'demo-1.0.dist-info' does not match the file name"),
    ],
)
def test_a_wheel_of_another_name_is_refused(tmp_path: Path, filename: str, why: str) -> None:
    assert refused(tmp_path, wheel_contents({}), filename=filename) == f"{filename}: {why}"


def test_metadata_of_another_distribution_is_refused(tmp_path: Path) -> None:
    contents = wheel_contents({})
    metadata = contents[f"{INFO}/METADATA"]
    other = metadata.replace(b"Name: demo", b"Name: torch")
    contents[f"{INFO}/METADATA"] = other
    contents[f"{INFO}/RECORD"] = contents[f"{INFO}/RECORD"].replace(
        record_line(f"{INFO}/METADATA", metadata).encode(), record_line(f"{INFO}/METADATA", other).encode()
    )
    assert refused(tmp_path, contents) == f"{LABEL}: '{INFO}/METADATA' has torch 1.0, the file name demo 1.0"


def test_names_and_versions_are_compared_as_such(tmp_path: Path) -> None:
    contents = wheel_contents({}, name="My.Demo", version="1.0.0")
    wheel = saved(tmp_path, zipped(contents))
    files = read(wheel_entries(wheel.path, filename="my_demo-1.0-py3-none-any.whl", site=SITE, bytecode=None))
    assert f"{PURE}/My.Demo-1.0.0.dist-info/RECORD" in files


def test_two_dist_info_folders_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, wheel_contents({"other-1.0.dist-info/METADATA": b""}))
    assert message == f"{LABEL}: has 2 .dist-info folders, not one: {INFO}, other-1.0.dist-info"


@pytest.mark.parametrize("path", ["other-1.0.data/purelib/x", "demo-1.0.data/root/x", "demo-1.0.data/x"])
def test_data_of_no_scheme_is_refused(tmp_path: Path, path: str) -> None:
    assert (
        refused(tmp_path, wheel_contents({path: b""})) == f"{LABEL}: {path!r} is not in a known scheme of demo-1.0.data"
    )


def test_two_files_for_one_place_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, wheel_contents({"x.py": b"one", "demo-1.0.data/purelib/x.py": b"two"}))
    assert message == f"{LABEL} would install different files at /{PURE}/x.py"


@pytest.mark.parametrize(
    "path", [f"purelib/{INFO}/RECORD", "platlib/pip-1.dist-info/RECORD", f"data/{PURE[10:]}/pip-1.dist-info/RECORD"]
)
def test_metadata_cannot_come_from_data(tmp_path: Path, path: str) -> None:
    path = f"demo-1.0.data/{path}"
    message = refused(tmp_path, wheel_contents({path: b""}))
    assert message == f"{LABEL}: {path!r} would change the metadata of an installed distribution"


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ("[console_scripts]\n../../bin/sh = a:b\n", "names a script '../../bin/sh', which is not a file name"),
        ("[console_scripts]\n.. = a:b\n", "names a script '..', which is not a file name"),
        ("[console_scripts]\nx = a:b; import os\n", "malformed entry_points.txt"),
        ("[console_scripts]\nx = just a text\n", "malformed entry_points.txt"),
        ("no section\n", "malformed entry_points.txt"),
        ("[console_scripts]\nx = %(home)s\n", "malformed entry_points.txt"),
        ("[console_scripts]\nx = a\n", "malformed entry_points.txt"),
    ],
)
def test_entry_points_that_lie_are_refused(tmp_path: Path, points: str, why: str) -> None:
    assert why in refused(tmp_path, wheel_contents({}, entry_points=points))


def test_not_the_name_of_a_wheel(tmp_path: Path) -> None:
    assert "not the file name of a wheel: 'demo.zip'" in refused(tmp_path, wheel_contents({}), filename="demo.zip")


def test_a_newer_wheel_format_is_refused(tmp_path: Path) -> None:
    contents = {n: d.replace(b"Wheel-Version: 1.0", b"Wheel-Version: 2.0") for n, d in wheel_contents({}).items()}
    old, new = (d[f"{INFO}/WHEEL"] for d in (wheel_contents({}), contents))
    contents[f"{INFO}/RECORD"] = contents[f"{INFO}/RECORD"].replace(
        record_line(f"{INFO}/WHEEL", old).encode(), record_line(f"{INFO}/WHEEL", new).encode()
    )
    assert refused(tmp_path, contents) == f"{LABEL}: '{INFO}/WHEEL' has an unsupported Wheel-Version: '2.0'"


def test_archives_that_lie_are_refused_with_wheel_and_member(tmp_path: Path) -> None:
    contents = wheel_contents({"link": b"/etc"})
    wheel = saved(tmp_path, zipped(contents, modes={"link": 0o120777}))
    with pytest.raises(ArtifactError) as caught:
        installed(wheel)
    assert caught.value.message == f"{LABEL}: 'link' is a symbolic link"


def test_pure_python_is_more_work_than_its_size() -> None:
    sympy = estimated_work([("sympy-1.13.1-py3-none-any.whl", 6_000_000)])
    assert sympy > estimated_work([("nvidia_nccl_cu12-2.21.5-py3-none-manylinux2014_x86_64.whl", 188_000_000)])


def test_a_field_of_record_beyond_the_csv_modules_limit_is_a_malformed_record(tmp_path: Path) -> None:
    contents = wheel_contents({"demo.py": b""})
    contents["demo-1.0.dist-info/RECORD"] += b"long.py," + b"a" * 200_000 + b",\n"
    with pytest.raises(ArtifactError, match="malformed RECORD: field larger than field limit"):
        list(group_entries([saved(tmp_path, zipped(contents))], site=SITE, bytecode=None))
