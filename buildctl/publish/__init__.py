"""Stage 6, tags: push by digest, attach, sign, move tags; verify, rebase and compare what is published.

Start with `publish.publish`. `gate` decides what a digest must have passed, `tags` which tags exist, `move` where
they point; `sign`, `sbom` and `provenance` make the documents, `verify` reads them back.

May import: testing and whatever testing may.
"""
