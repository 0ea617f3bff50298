"""Material: pinned files (wheels, Debian packages), the store that holds them, and the entries of a layer that they
become.

Start with `store.Store` (downloads by hash, layers by recipe key) and `download.download` (ranges, retries, hashes
on the way). `wheels/` and `debian/` turn one file into entries; `bytecode` compiles with the base's own Python;
`contents` and `bill` list what a layer holds.

May import: oci, matrix, console and ground.
"""
