"""File formats of volumes: each module opens, creates and reopens one of them."""
