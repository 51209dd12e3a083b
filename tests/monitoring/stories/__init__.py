"""Stories of fleets, by what is about to fail; `test_rules_stories` plays them to promtool."""
