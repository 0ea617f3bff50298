"""Stage 2, what is pinned: every wheel and Debian package by hash, and what the pinned torch says of itself.

Start with `update`, which resolves what is missing or stale. `wheels` and `debian` are the lock files, `uv` and
`apt` those who resolve them, `claims` what an image says of itself, `torch_wheel` how that is read from a wheel
without importing it, `fetch` the way from locks to files in the store.

May import: artifacts, registry, oci, matrix, console and ground.
"""
