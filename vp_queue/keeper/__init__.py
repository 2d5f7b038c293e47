"""The process that repairs: due and lost wake-ups, start deadlines, dead workers. It never executes."""
