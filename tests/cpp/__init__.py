"""The C++ runtime, held against the Python one."""
