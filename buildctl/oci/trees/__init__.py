"""Layers as one file tree: merged, unpacked into a folder, or written as one tar.

`tree` decides what replaces what and where a name leads; `unpack` writes a folder, as root or not, never outside it;
`merged` writes a tar (squashfs); `kept` makes folders appear whole and notices changes. It may import what `oci` may.
Start with `tree`.
"""
