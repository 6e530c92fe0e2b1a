"""The report's charts: Vega-Lite specifications made by altair from an analysis, in the reader's language."""
