"""One file per leaderboard: ``LEADERBOARD``, its entries, suites, FLOPs and seeds."""
