"""Every metric that Forecache exports to Prometheus: declared once, written to a page, listed in a glossary.

One module declares the metrics of one part. `docs/metrics.md` is generated from them (`make metrics-doc`).
"""
