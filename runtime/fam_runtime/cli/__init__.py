"""The command lines of the runtime."""
