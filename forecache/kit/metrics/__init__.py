"""Every metric that Forecache exports to Prometheus: declared once, written to a page, listed in a glossary.

`declared.json` declares them by part: name, type, labels and help of each. `make metrics-doc` prints the tables of
`docs/reference/metrics.md` from it.
"""
