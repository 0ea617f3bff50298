"""Stage 5, tests: probes run inside an image and answer; findings and reports come out.

Start with `images.test_images`. `probes/` holds the files that run inside and the code that judges their answers,
`expect` what the claims promise, `report` the findings, `kept` and `merge` combine reports of several machines, `debt`
lists what never ran.

May import: build and whatever build may.
"""
