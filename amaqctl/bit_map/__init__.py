"""Which channel of which cut gets how many bits: what a map of it shows, and how it is drawn.

To read it: `source` (where widths come from) → `report` (rows of values and lines of summary; with
`why` also what the quantizer measured) → `text`, `page`, `figure` (the same report in a terminal,
in HTML, as a picture; `colours` for all) and `document` (the numbers, for JSON and CSV). `export`
writes a file.
"""
