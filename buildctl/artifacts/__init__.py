"""Material: pinned wheels and Debian packages, the store that keeps them, and the layer entries made from them.

Start with `store.Store` (downloads by hash, layers by recipe key) and `download.download` (ranges, retries, hashing
while downloading). `wheels/` and `debian/` turn one file into entries; `bytecode` compiles with the base's own Python;
`contents` and `bill` list what a layer contains.

May import: oci, matrix, console and ground.
"""
