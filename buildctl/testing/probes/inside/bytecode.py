# ruff: noqa: PTH113, PTH116, PTH123
"""Runs inside the image, in front of torch_report: whether what is imported comes from bytecode."""

import os
import sys


def bytecode():
    """Of the modules that are loaded now: how many came from bytecode that fits, and which would be compiled."""
    bad, good = [], 0
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        origin, cached = getattr(spec, "origin", None), getattr(spec, "cached", None)
        if not origin or not cached or not str(origin).endswith(".py") or not os.path.isfile(origin):
            continue
        if os.path.realpath(origin).startswith("/etc/"):
            continue  # sitecustomize.py is a configuration file: edits to it must count
        fault = bytecode_fault(origin, cached)
        if fault:
            bad.append(f"{name}: {fault}")
        else:
            good += 1
    return {"good": good, "bad": bad[:20], "bad_count": len(bad)}


def bytecode_fault(source, cached):
    import importlib.util

    try:
        with open(cached, "rb") as file:
            header = file.read(16)
    except OSError:
        return "no bytecode"
    if header[:4] != importlib.util.MAGIC_NUMBER:
        return "bytecode of another Python"
    if header[4] & 1:
        with open(source, "rb") as file:
            wanted = importlib.util.source_hash(file.read())
        return None if header[8:16] == wanted else "bytecode of another source"
    status = os.stat(source)
    stamp = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
    size = (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    return None if header[8:16] == stamp + size else "bytecode of another time stamp"
