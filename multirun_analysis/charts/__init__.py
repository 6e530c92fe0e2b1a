"""The report's charts: Vega-Lite specifications, made from an analysis, in the reader's language."""
