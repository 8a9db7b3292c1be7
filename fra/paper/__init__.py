"""The paper's supplement as commands: which runs its tables need, the runs themselves, and the tables."""
