"""What hashing inside a world costs, and what it keeps of the accuracy."""
