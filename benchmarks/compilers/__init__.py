"""What compilers make of the training step, and how long they take."""
