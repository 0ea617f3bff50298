"""The OCI formats on disk: digests, layers, images, layouts and their check. No PyTorch, no network, no programs.

Start with `layout.Layout`, a folder of blobs with an index; `layer.write_layer` makes a layer in one pass over its
bytes; `check.check_image` recomputes every digest and lists every mismatch.

May import: ground.errors.
"""
