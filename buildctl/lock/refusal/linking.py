"""Libraries that would not load next to the locked torch: `undefined symbol: _ZN3c10...`, found when it is locked.

What is refused is certain: a name of torch's or of C++ that neither torch nor any other locked wheel exports, wanted by
a library that is linked to torch or by a Python module all of whose libraries are known. Everything doubtful passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from packaging.utils import parse_wheel_filename

from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.libraries import Library, WheelLibraries, kept_libraries, libraries_of
from buildctl.console.log import say
from buildctl.console.progress import open_progress
from buildctl.ground.errors import FetchError, ResolveError
from buildctl.lock.fetch import fetch_wheels
from buildctl.lock.uv import FAMILY, index_of, resolve
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.accelerators import CUDA, public_version
from buildctl.matrix.cells import Cell

_TORCH_LIBRARY = re.compile(r"lib(torch|torch_\w+|c10|c10_\w+|shm|caffe2\w*)\.so")
# C++ names of torch's namespaces, after the Itanium ABI's prefixes for functions, type information and tables; and C
_OF_TORCH = re.compile(
    r"_Z(?:T[ISVT]|GV|Th?n?\d*_)?N?[rVK]*[RO]?(?:3c10|2at|5torch|6caffe2|4c10d)|aoti_torch_|THP[A-Z]"
)
# Other C++ names: C libraries are also used without versions (cffi wants dlopen), the standard library of C++ is not.
_CPP = re.compile(r"_Z(?!N?[rVK]*(?:St|S[abdios]))")
# of which every C++ symbol that others use has a version
_VERSIONED = re.compile(
    r"(libc|libm|libdl|libpthread|librt|libutil|libresolv|libstdc\+\+|libgcc_s|ld-linux-[a-z0-9-]+)\.so\.\d+"
)
_CUDA_MAJOR = re.compile(r"lib(?:cudart|cublas|cublasLt|nvrtc)\.so\.(\d+)(?:\.\d+)*")  # same number as CUDA's
_CLAIMS_CUDA = re.compile(r"(^|-)(gpu|cuda\d*x?|cu\d+)(-|$)")  # in the name of a distribution
_SHOWN = 3


def refuse_unlinkable(cell: Cell, lock: WheelLock, built: Mapping[str, str], store: Store) -> None:
    """Raises ResolveError naming wheel, library and symbol. `built` is what torch is built for: {"cuda": "12.6"}.

    Downloads the added wheels that have libraries, which the build needs anyway, and torch itself if one of them is
    linked to it.
    """
    if cell.native:
        return
    wheels = [wheel for wheel in lock.wheels if _has_libraries(wheel) and wheel.name != "torch"]
    if not _fetched(cell, lock, _added(cell, lock, wheels, store), store):
        return
    there = {wheel.name: facts for wheel in wheels if (facts := _libraries(store, wheel)) is not None}
    for name, facts in there.items():
        _refuse_other_cuda(cell, name, facts, built.get(CUDA.name))
    torch = lock.wheel("torch")
    if torch is None or not any(map(_wants_torch, there.values())):
        found = None
    else:
        if any(_wants_torch(facts) for name, facts in there.items() if name not in FAMILY):
            _fetched(cell, lock, [torch], store)
        found = _libraries(store, torch)
    for name, facts in there.items():
        _refuse_missing(cell, name, facts, [*there.values(), *([found] if found else [])], found, store)


def _added(cell: Cell, lock: WheelLock, wheels: Sequence[LockedWheel], store: Store) -> list[LockedWheel]:
    """Those that were never read and that torch and its companions do not require themselves: what these bring is made
    for them, and may have gigabytes.
    """
    missing = [wheel for wheel in wheels if wheel.name not in FAMILY and _libraries(store, wheel) is None]
    if not missing:
        return []
    pins = [f"{wheel.name}=={wheel.version}" for name in FAMILY if (wheel := lock.wheel(name)) is not None]
    with index_of(cell.accelerator) as index:
        own = {found.name for found in resolve(pins, python=cell.python, platform=cell.platform, index=index)}
    return [wheel for wheel in missing if wheel.name not in own]


def _has_libraries(wheel: LockedWheel) -> bool:
    """By its tags; NVIDIA's are made for each other, and large."""
    tags = parse_wheel_filename(wheel.filename)[3]
    vendor = CUDA.vendor is not None and CUDA.vendor.fullmatch(wheel.name)
    return not vendor and any(tag.platform != "any" for tag in tags)


def _fetched(cell: Cell, lock: WheelLock, wheels: Sequence[LockedWheel], store: Store) -> bool:
    missing = tuple(wheel for wheel in wheels if _libraries(store, wheel) is None)
    if not missing:
        return True
    say(f"fetching {', '.join(wheel.name for wheel in missing)} to look up the symbols of their libraries")
    part = WheelLock(name=lock.name, platform=lock.platform, python=lock.python, inputs=lock.inputs, wheels=missing)
    try:
        with open_progress("fetched") as progress:
            fetch_wheels([(cell, part)], store=store, progress=progress)
    except FetchError as error:
        say(f"{error.message}\n{cell.id}: whether their libraries fit the locked torch is not checked")
        return False
    return True


def _libraries(store: Store, wheel: LockedWheel) -> WheelLibraries | None:
    return libraries_of(store, wheel.digest, wheel.filename)


def _wants_torch(facts: WheelLibraries) -> bool:
    return any(_linked_to_torch(library) for library in facts.libraries)


def _linked_to_torch(library: Library) -> bool:
    return any(map(_TORCH_LIBRARY.fullmatch, library.needed)) or any(map(_OF_TORCH.match, library.wants))


# ------------------------------------------------------------------------------------------------------------ symbols


def _refuse_missing(
    cell: Cell,
    name: str,
    facts: WheelLibraries,
    everything: Sequence[WheelLibraries],
    torch: WheelLibraries | None,
    store: Store,
) -> None:
    known = {n: library for one in everything for library in one.libraries for n in library.names}
    loaded = _loaded(facts, known, cell.python)
    for library in facts.libraries:
        doubtful = {symbol for symbol in library.wants if _OF_TORCH.match(symbol) or _CPP.match(symbol)}
        if torch is None or not _linked_to_torch(library):
            doubtful = doubtful if library in loaded else set()
            doubtful -= {symbol for symbol in doubtful if _OF_TORCH.match(symbol) and torch is None}
        elif not _closed(library, known):
            doubtful = {symbol for symbol in doubtful if _OF_TORCH.match(symbol)}
        missing = sorted(doubtful - _exported(everything, doubtful))
        if missing:
            raise _refused(cell, name, facts, library, missing, store)


def _exported(everything: Iterable[WheelLibraries], wanted: set[str]) -> set[str]:
    return {symbol for one in everything for library in one.libraries for symbol in wanted & library.exports}


def _loaded(facts: WheelLibraries, known: Mapping[str, Library], python: str) -> list[Library]:
    """Modules that this Python imports and what they need, of those for which all that they need is known."""
    tag = f"cpython-{python.replace('.', '')}-"
    todo = [one for one in facts.libraries if _is_module(one, tag) and _closed(one, known)]
    found: list[Library] = []
    while todo:
        library = todo.pop()
        if library not in found:
            found.append(library)
            todo += [known[name] for name in library.needed if name in known]
    return [library for library in found if library in facts.libraries]


def _is_module(library: Library, tag: str) -> bool:
    base = library.path.rpartition("/")[2]
    fits = tag in base or ".abi3." in base or base.count(".") == 1
    return fits and f"PyInit_{base.partition('.')[0]}" in library.exports


def _closed(library: Library, known: Mapping[str, Library]) -> bool:
    """Whether everything it needs is in wheels or has versions, all the way down."""
    todo, seen = [library], set[str]()
    while todo:
        one = todo.pop()
        if not one.versioned:
            return False
        for name in one.needed:
            if name not in known and not _VERSIONED.fullmatch(name):
                return False
            if name in known and name not in seen:
                seen.add(name)
                todo.append(known[name])
    return True


def _refused(
    cell: Cell, name: str, facts: WheelLibraries, library: Library, missing: Sequence[str], store: Store
) -> ResolveError:
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    what = (
        f"{cell.name} on {cell.platform}: {facts.filename}: {library.path} would not load: undefined symbol: "
        f"{', '.join(missing[:_SHOWN])}{more}"
    )
    if not _linked_to_torch(library):
        return ResolveError(what, hint=f"no locked wheel has it: ask for another version of {name} under packages")
    wants = wanted_torch(facts, missing, store)
    built = f", it is built for {wants}" if wants else ", it is built for another one"
    return ResolveError(
        f"{what}. torch {cell.torch} does not have it{built}",
        hint=f"ask for a version of {name} that is built for torch {public_version(str(cell.torch))}, or limit it to "
        f'images whose torch it fits: {{name: {name}, torch: "..."}}',
    )


def wanted_torch(facts: WheelLibraries, missing: Sequence[str], store: Store) -> str:
    """`torch 2.9`: by the wheel's version (+cu12torch2.9, +pt29), by what it requires, or by which torch on this
    machine has the symbols; empty if unknown.
    """
    version = str(parse_wheel_filename(facts.filename)[1])
    if match := re.search(r"torch(\d+\.\d+)", version) or re.search(r"pt(\d)(\d+)", version):
        return f"torch {'.'.join(match.groups())}"
    if match := re.fullmatch(r"torch={2,3}(\S+)", facts.torch):
        return f"torch {match[1]}"
    having = {
        str(parse_wheel_filename(other.filename)[1])
        for other in kept_libraries(store)
        if other.filename.startswith("torch-") and _exported([other], set(missing)) == set(missing)
    }
    return f"torch {' or '.join(sorted(having))}" if having else facts.torch.replace("torch", "torch ", 1)


# --------------------------------------------------------------------------------------------------------------- CUDA


def _refuse_other_cuda(cell: Cell, name: str, facts: WheelLibraries, cuda: str | None) -> None:
    """For a wheel all of whose CUDA libraries need another major than torch's, and that does not bring it along: an
    error if its name claims CUDA, else a line.
    """
    own = {n for library in facts.libraries for n in library.names}
    needs = [
        (match[1], library, need)
        for library in facts.libraries
        for need in library.needed
        if need not in own and (match := _CUDA_MAJOR.fullmatch(need))
    ]
    if cuda is None or not needs or cuda.partition(".")[0] in {major for major, _, _ in needs}:
        return
    major, library, need = needs[0]
    what = (
        f"{cell.name} on {cell.platform}: {facts.filename} is built for CUDA {major} ({library.path} needs {need}), "
        f"torch {cell.torch} for CUDA {cuda}"
    )
    if not _CLAIMS_CUDA.search(name):
        say(f"note: {what}: that library will not load")  # many do without, such as torchao
        return
    raise ResolveError(
        what,
        hint=f"ask for a version of {name} for CUDA {cuda.partition('.')[0]}, or for a torch of CUDA {major}",
    )
