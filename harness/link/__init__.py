"""The serial line to a board: opening it, and speaking MLPerf Tiny's protocol over it. Knows nothing of networks."""
