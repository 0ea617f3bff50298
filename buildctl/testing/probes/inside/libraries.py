# `ask` comes from ask.py, which is put in front; any Python from 3.9 on runs this.
# ruff: noqa: F821, PTH110, PTH112, PTH118, PTH119, PTH120, PTH123, PTH207, PTH208
"""Runs inside the image: does every library of torch and NVIDIA's wheels find what it is linked to? Loads nothing."""

import glob
import mmap
import os
import struct
import subprocess
import sys

OWN = os.path.join(sys.base_prefix, "lib")
# Given by the host's driver when a GPU is passed in, never by an image.
DRIVER = ("libcuda.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libcudadebugger.so")
# Plug-ins that their library loads only where such hardware or software is: RDMA adapters, MPI, the sox program.
PLUGINS = (
    "libcufile_rdma",
    "nvshmem_bootstrap_",
    "nvshmem_transport_",
    "libnccl-net",
    "libtorchaudio_sox",
    "_torchaudio_sox",
)
# torch 2.15's amd64 wheel brings it without its libquadmath, and nothing links to it: excused only while that is so.
STRAY = ("libgfortran.so",)
FOLDERS = ("torch", "nvidia", "cusparselt", "triton", "torchvision", "torchvision.libs", "torchaudio")
# Their Python code loads their own libraries in order, after torch's: the loader then knows them by name.
EXTENSIONS = ("torchvision", "torchaudio", "triton")


def needs(path):
    """(names needed, folders to look in) of an ELF file's dynamic section; None for any other file."""
    with open(path, "rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return dynamic(data, os.path.dirname(path))


def dynamic(data, origin):
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + n * size) for n in range(count)]
    section = next((h for h in headers if h[0] == 2), None)
    if section is None:
        return [], []
    entries, at = [], section[2]
    while (entry := struct.unpack_from("<qQ", data, at))[0]:
        entries.append(entry)
        at += 16
    address = next(value for tag, value in entries if tag == 5)
    strings = next(h[2] + address - h[3] for h in headers if h[0] == 1 and h[3] <= address < h[3] + h[6])

    def text(offset):
        return data[strings + offset : data.find(b"\0", strings + offset)].decode()

    folders = ":".join(text(value) for tag, value in entries if tag in (15, 29)).split(":")
    places = [f.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for f in folders if f]
    return [text(value) for tag, value in entries if tag == 1], places


def known():
    """Names that the loader finds by itself: its cache and its folders."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    names = {line.split(" (")[0].strip() for line in listed.splitlines() if "=>" in line}
    told = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    # a Python of conda's looks in its own lib for all that it loads
    for folder in ("/lib", "/usr/lib", "/lib64", "/usr/lib64", *glob.glob("/usr/lib/*-linux-gnu"), OWN, *told):
        if os.path.isdir(folder):
            names.update(os.listdir(folder))
    return names


def site_packages():
    import importlib.util

    return os.path.dirname(os.path.dirname(importlib.util.find_spec("torch").origin))


def elf_files(folder):
    for where, _, files in os.walk(folder):
        for name in sorted(files):
            if ".so" in name and not name.startswith(PLUGINS):
                path = os.path.join(where, name)
                found = needs(path)
                if found is not None:
                    yield path, *found


def found_by(wanted, places):
    return next((p for p in (os.path.join(place, wanted) for place in places) if os.path.exists(p)), None)


def loaded_by_torch(site):
    """Names in a process that has imported torch: its libraries, and what these are linked to, and so on."""
    names, todo = set(), [path for path, *_ in elf_files(os.path.join(site, "torch", "lib"))]
    while todo:
        path = todo.pop()
        names.add(os.path.basename(path))
        wanted, places = needs(path) or ([], [])
        paths = [found_by(name, places) for name in wanted if name not in names]
        todo += [path for path in paths if path]
    return names


def libraries():
    site = site_packages()
    system, of_torch = known(), loaded_by_torch(site)
    count, missing, driver, linked = 0, [], set(), set()
    for package in FOLDERS:
        elves = list(elf_files(os.path.join(site, package)))
        there = system | (of_torch | {os.path.basename(path) for path, *_ in elves} if package in EXTENSIONS else set())
        for path, wanted, places in elves:
            count += 1
            linked.update(wanted)
            driver.update(name for name in wanted if name.startswith(DRIVER))
            lost = [n for n in wanted if not n.startswith(DRIVER) and n not in there and not found_by(n, places)]
            missing += [(path, name) for name in lost]
    stray = {path for path, _ in missing if os.path.basename(path).startswith(STRAY)}
    stray = {path for path in stray if os.path.basename(path) not in linked}
    missing = [f"{os.path.relpath(path, site)} needs {name}" for path, name in missing if path not in stray]
    return {"count": count, "missing": missing[:20], "missing_count": len(missing), "driver": sorted(driver)}


if __name__ == "__main__":
    ask("libraries", libraries)
