"""Between fra and the operating system: locks, processes, signals, text and tables of others, telemetry."""
