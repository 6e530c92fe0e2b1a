"""What a sweep would make and take, told before it starts (``hydra.launcher.dry_run``)."""
