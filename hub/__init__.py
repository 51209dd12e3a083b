"""The centre: takes jobs, places them on nodes by health, and commits each result once."""
