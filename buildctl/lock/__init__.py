"""Stage 2, what is pinned: every wheel and Debian package by hash, and the claims of the pinned torch.

Start with `update`, which resolves what is missing or stale. `wheels` and `debian` are the lock files, `uv` and
`apt` their resolvers, `claims` what an image claims, `torch_wheel` how that is read from a wheel
without importing it, `fetch` downloads what locks pin into the store.

May import: artifacts, registry, oci, matrix, console and ground.
"""
