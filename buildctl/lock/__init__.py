"""Stage 2, what is pinned: every wheel and Debian package by hash, and the claims of the pinned torch.

Start with `update`, which resolves what is missing or stale, and `locked`, which loads it. `wheels` and `debian` are
the lock files, `uv` and `apt` resolve them, `claims` is what an image claims, `torch_wheel` reads that from a wheel
without importing it, `fetch` gets the locked files into the store.

May import: artifacts, registry, oci, matrix, console and ground.
"""
