"""What every job runs in: configuration, cluster, progress, machine."""
