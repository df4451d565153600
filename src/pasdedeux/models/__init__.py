"""Single-device networks: no loading, no device logic, no switches for deployment."""
