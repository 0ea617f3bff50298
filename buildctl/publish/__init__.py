"""Stage 6, tags: push by digest, attach, sign, move tags; verify, rebase and compare what is published.

Start with `publish.publish`. `gate` decides whether a tag may move to a digest, `tags` which tags there are, `move`
points them; `sign`, `sbom` and `provenance` make the documents, `verify` reads them back.

May import: testing and whatever testing may.
"""
