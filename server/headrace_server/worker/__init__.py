"""Worker: a process that owns one device and runs model instances, each on a thread of its own."""
