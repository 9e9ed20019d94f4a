"""The ways of combining vectors, one file each with the paper that it follows."""
