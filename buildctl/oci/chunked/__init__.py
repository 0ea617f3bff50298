"""zstd:chunked: a zstd layer that clients can also read file by file, by ranges of its blob.

    [frames] [table of contents] [tar-split] [footer of 64 bytes] [footer of 40 bytes]

Each file, or each chunk of a large one, is a zstd frame of its own, and so is what lies between two files in the tar.
The rest is in skippable frames, which a plain zstd decoder passes over: whoever does not know the format gets the same
tar. The two footers are those of containers/storage (podman) and of stargz-snapshotter; podman reads the annotations of
the layer instead. `write` makes such layers, `read` and `check` read them, `twin` makes the manifest for stargz.

May import: the folder above, and ground.errors.
"""
