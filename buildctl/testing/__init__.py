"""Stage 5, what is so: probes run inside an image, findings, reports.

Start with `images.test_images`. `probes/` holds the files that run inside, what judges their answers, and in
`probes/expected` what the claims promise; `report` what was found, `kept` and `merge` how reports of several machines
come together, `debt` what never ran.

May import: build and whatever build may.
"""
