"""Other ways to make a network small, each trained and measured at its true bytes."""
