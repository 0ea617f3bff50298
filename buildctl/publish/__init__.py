"""Stage 6, tags: push by digest, attach, sign, move tags; verify, rebase and compare what is published.

Start with `publish.publish`. `tags` decides which tags there are, `move` whether one may move to a digest, and points
it; `sign`, `sbom` and `provenance` make the documents, `verify` reads them back.

May import: testing and whatever testing may.
"""
