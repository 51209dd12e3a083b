"""Rules and Alertmanager's configuration in Mimir: the files, what Mimir has, and the way from one to the other."""
