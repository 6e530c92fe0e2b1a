"""The choice of a sweep confirmed on data that no trial has seen, and on what shall not be forgotten."""
