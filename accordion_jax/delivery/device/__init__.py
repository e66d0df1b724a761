"""The device: fetches what it needs, keeps it on its disk, and knows what is complete."""
