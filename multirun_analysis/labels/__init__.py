"""Which references of a data set are most likely wrong, from what several adapters made of its audio.

Reads files only; no torch. ``evidence`` gathers, ``signals`` ranks, ``suspects`` writes.
"""
