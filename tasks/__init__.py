"""What huey_consumer imports. No logic here."""
