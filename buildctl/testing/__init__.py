"""Stage 5, what holds: probes run inside an image, findings, reports.

Start with `images.test_images`. `probes/` holds the files that run inside and what judges their answers, `expect`
what the claims promise, `report` what was found; `kept` and `merge` combine reports of several machines,
`debt` lists what never ran.

May import: build and whatever build may.
"""
