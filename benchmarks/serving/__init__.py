"""How the service answers under load, and what it does when a replica dies."""
