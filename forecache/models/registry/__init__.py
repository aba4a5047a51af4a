"""The model registry: candidates, the gate that makes one the champion, the promotion ledger, the report."""
