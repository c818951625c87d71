"""What a GPU makes of the kernels: checks, and the pace of the paper's world."""
