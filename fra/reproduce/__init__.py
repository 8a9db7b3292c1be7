"""The paper's supplement as commands: which runs its tables need, the runs themselves, and the tables."""

NAMES = ("table1", "table2", "table3", "table4", "table5", "figure1")
"""What `fra reproduce` makes."""
