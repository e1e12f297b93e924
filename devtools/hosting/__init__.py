"""The host on this machine: found or installed, and loaded into this process."""
