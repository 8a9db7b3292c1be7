"""Job files for clusters: what `fra cluster` writes."""
