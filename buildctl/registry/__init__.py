"""Registries: a client of the OCI distribution specification. Only missing blobs are transferred.

Start with `client.Repository`. `transport` has retries, tokens and limits, `problems` the kinds of failure,
`reference` the grammar of names, `referrers` attached documents, `target` an image wherever it lives (layout or
registry).

May import: oci, matrix, console and ground.
"""
