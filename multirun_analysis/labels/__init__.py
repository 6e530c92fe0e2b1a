"""Label errors: ranks the references of a data set by how likely they are wrong, given several adapters' outputs.

Reads files only, without torch. ``evidence`` gathers, ``signals`` ranks, ``suspects`` writes.
"""
